"""A network of the user's own: the packaged example with arguments, and a file outside the package."""

import keras
import numpy as np
import pytest

from common.config import ConfigError, validate
from src.models._build import build_backbone, import_custom_model_file
from src.schema import ModelSection

OWN = """
import keras

@keras.saving.register_keras_serializable(package="own")
class Double(keras.layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs

def custom_model(input_shape, dimension: int = 8):
    images = keras.Input(input_shape)
    x = keras.layers.GlobalAveragePooling2D()(Double()(images))
    return keras.Model(images, keras.layers.Dense(dimension)(x), name="mine")
"""


def section(**changes) -> ModelSection:
    return validate(ModelSection, {"model_name": "custom_model", "input_shape": "(64, 32, 3)", **changes})


def own_file(tmp_path, text=OWN):
    path = tmp_path / "net.py"
    path.write_text(text)
    return str(path)


def test_the_packaged_model_takes_arguments_from_the_yaml():
    backbone = build_backbone(section(arguments={"width": 8, "depth": 3}))
    assert backbone.input_shape == (None, 64, 32, 3)
    assert backbone.output_shape == (None, 32)


def test_a_file_of_the_user_is_built_and_its_layers_are_found_again(tmp_path):
    path = own_file(tmp_path)
    backbone = build_backbone(section(custom_model_file=path, arguments={"dimension": 5}))
    assert (backbone.name, backbone.output_shape) == ("mine", (None, 5))
    backbone.save(tmp_path / "saved.keras")
    again = validate(ModelSection, {"model_path": str(tmp_path / "saved.keras"), "custom_model_file": path})
    import_custom_model_file(again.custom_model_file)
    images = np.ones((1, 64, 32, 3), np.float32)
    loaded = keras.saving.load_model(again.model_path, safe_mode=True)
    np.testing.assert_array_equal(loaded(images), backbone(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"witdh": 8}}, "model 'custom_model' has no argument 'witdh', did you mean 'width'?"),
        ({"arguments": {"input_shape": 8}}, "has no argument 'input_shape'"),
        ({"pretrained": True}, "model 'custom_model' has no argument 'pretrained'"),
        ({"model_name": "osnet_a025", "pretrained": True}, "model 'osnet_a025' has no argument 'pretrained'"),
        ({"custom_model_file": "nowhere.py"}, "there is no file nowhere.py"),
        ({"model_name": None, "model_path": "a.keras", "arguments": {"width": 1}}, "has its own layers"),
    ],
)
def test_mistakes_are_named_before_anything_is_imported(changes, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        section(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def custom_model(:", "is not Python"),
        ("def my_model(input_shape): ...", r"needs a function custom_model\(input_shape"),
        ("def custom_model(shape): ...", r"needs a function custom_model\(input_shape"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_unread(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        section(custom_model_file=own_file(tmp_path, text))


def test_a_file_goes_with_its_own_model_name_only(tmp_path):
    with pytest.raises(ConfigError, match="custom_model_file goes with model_name: custom_model"):
        section(custom_model_file=own_file(tmp_path), model_name="osnet_a025")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0\ndef custom_model(input_shape): ...", "cannot be imported: ZeroDivisionError"),
        ("def custom_model(input_shape): return 1", "must return a functional keras.Model, received int"),
        ("def custom_model(input_shape): raise ValueError('no')", "cannot be built: no"),
        (OWN.replace("keras.Input(input_shape)", "keras.Input((8, 8, 3))"), "must take images of shape"),
        (OWN.replace("GlobalAveragePooling2D()", "ReLU()"), "must return features"),
    ],
)  # fmt: skip
def test_a_function_that_does_not_build_an_embedding_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(section(custom_model_file=own_file(tmp_path, text)))
