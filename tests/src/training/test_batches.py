"""How a configuration makes batches of one or of two modalities, and what it refuses."""

import numpy as np
import pytest

from common.config import ConfigError, validate
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data, _of_modalities
from src.schema import Config
from src.training.batches import batches_of

SHAPE = (64, 32, 3)
ONE = {"": SHAPE}
TWO = {"visible": SHAPE, "thermal": (64, 32, 1)}
EXCHANGED = {"data_augmentation_second_view": {"random_channel_exchange": None}}


def config_of(training=None, dataset=None, **sections) -> Config:
    return validate(
        Config,
        {
            "operation_mode": "training",
            "model": {"model_name": "plain_cnn", "input_shape": "(64, 32, 3)"},
            "dataset": {"training_path": "t", **(dataset or {})},
            "training": {
                "batch_size": 24,
                "epochs": 1,
                "optimizer": "SGD",
                "images_per_identity": 2,
                **(training or {}),
            },
            **sections,
        },
    )


@pytest.fixture
def data(tmp_path):
    """Six identities, three visible and two thermal images each; the last one has no thermal image."""
    keys = [(who, what) for who in range(6) for what in ("visible",) * 3 + ("thermal",) * (2 * (who < 5))]
    return Data(training=[Sample(tmp_path / f"{n}.jpg", who, 1, what) for n, (who, what) in enumerate(keys)])


def made(config, data, inputs=ONE):
    labels = np.array([sample.identity for sample in data.training], np.int32)
    return batches_of(config, data, labels, inputs, Preprocessing(SHAPE))


def test_one_input_has_identities_without_a_look_at_modalities(data):
    batches = made(config_of(), data)
    assert (batches.by_modality, batches.p, batches.k, batches.steps) == (False, 12, 2, 2)  # 28 images
    assert set(batches.preprocessing) == {""}


def test_two_inputs_have_images_of_both_modalities(data, caplog):
    batches = made(config_of({"batch_size": 16}), data, TWO)
    assert (batches.by_modality, batches.p, batches.k) == (True, 4, 2)
    assert batches.steps == 2  # 15 visible images of people seen in both, 8 a batch
    assert batches.preprocessing["thermal"].input_shape == (64, 32, 1)
    assert batches.preprocessing["thermal"].color_mode == "grayscale"
    batches.check()
    assert "1 identities have images of one modality only" in caplog.text


def test_one_input_may_see_both_modalities(data):
    batches = made(config_of({"sampler": "cross_modal", "batch_size": 16}), data)
    assert (batches.by_modality, batches.p) == (True, 4)
    assert [view.modality for view in batches.views] == ["visible", "thermal"]


def test_a_second_view_is_a_third_of_the_batch(data):
    batches = made(config_of(**EXCHANGED), data, TWO)
    assert [view.modality for view in batches.views] == ["visible", "visible", "thermal"]
    assert batches.p == 4


def test_a_modality_has_its_own_arguments_of_a_common_augmentation(data):
    common, own = {"random_brightness": {"factor": 0.0}}, {"random_brightness": {"factor": [0.5, 0.5]}}
    config = config_of({"batch_size": 16}, data_augmentation=common, data_augmentation_thermal=own)
    visible, thermal = made(config, data, TWO).views
    for view, channels, changed in ((visible, 3, False), (thermal, 1, True)):
        images = np.full((1, 4, 4, channels), 100, np.float32)
        assert np.allclose(view.augment(images, np.array([1, 2])), images) != changed


@pytest.mark.parametrize(
    ("training", "sections", "inputs", "message"),
    [
        ({"sampler": "identities"}, {}, TWO, "sampler is identities, but the network takes visible and thermal"),
        ({}, EXCHANGED, ONE, "data_augmentation_second_view needs batches of visible and thermal images"),
        ({"losses": [{"name": "hetero_center"}]}, {}, ONE, "loss 'hetero_center' needs batches of visible and"),
        ({"batch_size": 18}, {}, TWO, "images_per_identity x 2 views .*received 18 and 2: expected a multiple of 4"),
        ({"batch_size": 16}, EXCHANGED, TWO, "x 3 views .visible, its second view and thermal.*multiple of 6"),
        ({"batch_size": 16}, {"data_augmentation_thermal": {"channel_adaptive_gray": None}}, TWO, "needs colour"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(data, training, sections, inputs, message):
    with pytest.raises(ConfigError, match=message):
        made(config_of(training, **sections), data, inputs)


def test_too_few_people_in_both_modalities_are_refused(data):
    with pytest.raises(ConfigError, match="P = 6 identities with images of both modalities"):
        made(config_of(), data, TWO).check()


def test_a_training_on_one_modality_leaves_the_other_out(data):
    config = config_of(dataset={"training_modalities": ["visible"]})
    assert {sample.modality for sample in _of_modalities(config, data.training)} == {"visible"}
    assert _of_modalities(config_of(), data.training) == data.training
    thermal = [sample for sample in data.training if sample.modality == "thermal"]
    with pytest.raises(
        ConfigError, match=r"training_modalities is \['visible'\], but the images are thermal"
    ):
        _of_modalities(config, thermal)
