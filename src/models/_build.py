"""From the section `model` of a configuration to a backbone."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from common.config import ConfigError
from src.models._two_stems import has_two_stems
from src.registries import MODELS
from src.schema import ModelSection

_MODULE = "custom_model_file"


def build_backbone(section: ModelSection) -> keras.Model:
    """Build the model of the zoo, or the user's own, that `model.model_name` means.

    Returns:
        Rescaled images (N, H, W, C) to features (N, D), with random or ImageNet weights; `agw` takes a dict of visible
        and thermal images, `idkl` gives a dict of the `embedding` and what only training needs.

    Raises:
        ConfigError: an argument has a value that the model refuses, or the user's own model is not such a network.
    """
    assert section.model_name is not None
    arguments = {**section.arguments, "input_shape": section.input_shape}
    if section.pretrained:
        arguments["pretrained"] = True
    own = import_custom_model_file(section.custom_model_file)
    function = MODELS.get(section.model_name) if own is None else own.custom_model
    try:
        backbone = function(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model '{section.model_name}' cannot be built: {error}") from error
    _check(backbone, section)
    return backbone


def import_custom_model_file(path: Path | None) -> ModuleType | None:
    """Import the file of `model.custom_model_file` once, so that Keras also knows the layers that it registers.

    Raises:
        ConfigError: the file fails when it is imported.
    """
    if path is None:
        return None
    loaded = sys.modules.get(_MODULE)
    if loaded is not None and loaded.__file__ == str(path.absolute()):
        return loaded
    specification = importlib.util.spec_from_file_location(_MODULE, path.absolute())
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[_MODULE] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[_MODULE]
        raise ConfigError(
            f"model.custom_model_file {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _check(backbone: Any, section: ModelSection) -> None:
    where = section.custom_model_file or section.model_name
    if not isinstance(backbone, keras.Model) or not hasattr(backbone, "output"):
        raise ConfigError(f"{where} must return a functional keras.Model, received {type(backbone).__name__}")
    images = backbone.input["visible"].shape if has_two_stems(backbone) else backbone.input_shape
    if images != (None, *section.input_shape):
        raise ConfigError(
            f"{where} must take images of shape {(None, *section.input_shape)}, its input is {images}"
        )
    output = backbone.output
    shape = getattr(output.get("embedding") if isinstance(output, dict) else output, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] is None:
        raise ConfigError(
            f"{where} must return features of shape (N, D) with a fixed D, its output is {shape}"
        )
