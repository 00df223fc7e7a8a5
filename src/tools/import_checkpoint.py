"""Turn a PyTorch checkpoint into a model of the zoo: weights that others have trained, as `model.model_path`.

`python -m src.tools.import_checkpoint --from torchreid --input x.pth --model-name osnet_a025 --output x.keras`

Sources are OSNets of torchreid, ResNets of torchvision, and AGW's network for visible and thermal images. Every tensor
is copied or left out by name, such as the classifier; otherwise nothing is written, and the message lists the tensors.
The model is written with a manifest that states the preprocessing of all three: RGB, ImageNet's mean and deviation.
The exit code is 0, or 2 for a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.artifacts import Model
from common.config import ConfigError, suggest
from common.run import load_tensorflow
from src.data.preprocessing import Preprocessing
from src.registries import MODELS
from src.tools.checkpoints.read_state import read_state
from src.tools.checkpoints.sources import SOURCES

# ImageNet's mean and deviation of RGB values in [0, 1]: (pixel / 255 - mean) / deviation.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SCALE = tuple(1 / (255 * deviation) for deviation in _DEVIATION)
_OFFSET = tuple(-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True))


def import_checkpoint(
    source: str, path: Path, model_name: str, output: Path, input_shape: tuple[int, int, int] | None = None
) -> tuple[Model, dict[str, int]]:
    """Write the embedding model and its manifest.

    Args:
        source: A name of `SOURCES`.
        path: The checkpoint.
        model_name: A model of the zoo that the source has.
        output: The `.keras` file.
        input_shape: Height, width and 3 channels; the model's own where it is not given.

    Returns:
        The model, and what was left out of the checkpoint to the number of tensors.

    Raises:
        ConfigError: an argument is wrong, or the checkpoint cannot be read or does not fit; nothing is written.
    """
    models = SOURCES[source].models
    if model_name not in models:
        raise ConfigError(f"--model-name: {source} has no '{model_name}', {suggest(model_name, models)}")
    if output.suffix != ".keras":
        raise ConfigError(f"--output: expected a file that ends in .keras, received {output}")
    state = read_state(path)
    load_tensorflow()
    from src.models._two_stems import branches_of, has_two_stems
    from src.tools.checkpoints.transfer import transfer
    from src.training.checkpoint import save_checkpoint

    network = MODELS.get(model_name)(**({} if input_shape is None else {"input_shape": input_shape}))
    try:
        left_out = transfer(state, network, SOURCES[source])
    except ConfigError as error:
        raise ConfigError(f"--input: {path}: {error}") from error
    two_inputs = has_two_stems(network)
    shape: Any = network.input["visible"].shape[1:] if two_inputs else network.input_shape[1:]
    model = Model(
        files={"keras": output},
        precision="float32",
        input_shape=shape,
        embedding_dim=network.output.shape[-1],
        preprocessing=asdict(Preprocessing(shape, scale=_SCALE, offset=_OFFSET)),
        trained_on={"model_name": model_name, "imported_from": f"{source}, {path.name}"},
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(branches_of(network) if two_inputs else network, output)
    model.save()
    return model, dict(left_out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Turn a PyTorch checkpoint into a model of the zoo.", allow_abbrev=False
    )
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, required=True, help="whose checkpoint it is"
    )
    parser.add_argument("--input", type=Path, required=True, help="the checkpoint, or an .npz of its tensors")
    parser.add_argument("--model-name", required=True, help="which model of the zoo it becomes")
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="other than the model's",
    )
    parser.add_argument("--output", type=Path, required=True, help="the .keras file")
    given = parser.parse_args(arguments)
    shape = None if given.input_shape is None else tuple(given.input_shape)
    try:
        model, left_out = import_checkpoint(given.source, given.input, given.model_name, given.output, shape)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{what} ({count})" for what, count in left_out.items())
    print(f"{given.model_name} for images of {model.input_shape}; left out: {counts or 'nothing'}")
    print(f"{model.path} with its manifest; use it as model.model_path")
    return 0


if __name__ == "__main__":
    sys.exit(main())
