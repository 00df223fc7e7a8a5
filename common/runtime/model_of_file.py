import logging
from pathlib import Path

from common.artifacts import Model
from common.runtime.keras_file import image_inputs
from common.runtime.open_model import open_model

_LOGGER = logging.getLogger(__name__)


def model_of_file(path: Path) -> Model:
    """Return the model of a file with what its manifest tells; without one, what the file itself tells.

    Raises:
        ConfigError: the file or its manifest cannot be read, or it is no embedding model.
    """
    model = Model.load(path)
    if model is not None:
        return model
    _LOGGER.warning("%s has no manifest: its preprocessing is taken from the configuration", path)
    with open_model(path, input_name=next(iter(image_inputs(path)), "")) as runtime:
        return Model(
            files={path.suffix[1:]: path},
            precision=runtime.precision,
            input_shape=runtime.input_shape,
            embedding_dim=runtime.embedding_dim,
        )
