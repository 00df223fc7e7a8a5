import json
import zipfile
from pathlib import Path
from typing import Any

from common.config import ConfigError


def image_inputs(path: Path) -> dict[str, tuple[int, int, int]]:
    """Read from a `.keras` archive which images a model with several inputs takes; TensorFlow is not needed.

    Returns:
        Name of each input of a dict, such as `visible` and `thermal`, to (H, W, C); empty where the model has one
        input, or the file is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            model = json.loads(archive.read("config.json"))["config"]
    except (OSError, KeyError, zipfile.BadZipFile, ValueError):
        return {}  # whoever opens the file says what is wrong with it
    inputs = model.get("input_layers")
    if not isinstance(inputs, dict) or len(inputs) < 2:
        return {}
    shapes = {layer["config"].get("name"): layer["config"].get("batch_shape") for layer in model["layers"]}
    return {name: tuple(shapes[layer][1:]) for name, (layer, *_) in inputs.items()}


def load_network(path: Path, with_optimizer: bool = False) -> Any:
    """Load the `keras.Model` of a `.keras` archive; no code of the file is run.

    Args:
        path: The file.
        with_optimizer: Whether to load its optimizer as well, to go on training.

    Raises:
        ConfigError: the file is damaged or no such archive, or holds a layer that is not registered.
    """
    import keras

    import common.layers  # noqa: F401  (what the file may hold)

    try:
        return keras.saving.load_model(path, compile=with_optimizer, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"Keras cannot load {path}: the file is damaged, is no .keras archive, or needs code that "
            f"is not registered here ({error})."
        ) from error
