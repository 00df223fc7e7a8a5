import json
import zipfile
from pathlib import Path


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
