"""Validation embeds every image through the input of its modality, in the order of the samples."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError
from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data
from src.models._head import embedding_model, reid_network
from src.models.agw import agw
from src.registries import monitors
from src.training.check_training import _check_validation
from src.training.validation import Route, by_modality, embed_samples, retrieval, routes_of

SHAPE = (64, 32, 3)
PREPROCESSING = Preprocessing(SHAPE)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Five images, the second and the fourth thermal."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [Sample(folder / f"{n}.png", n, 1, "thermal" if n % 2 else "visible") for n in range(5)]


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return agw(SHAPE, backbone="custom_model", thermal_channels=1)


@pytest.mark.parametrize("form", ["backbone", "training network", "embedding model", "file"])
def test_each_image_takes_the_stem_of_its_modality(network, samples, form, tmp_path):
    if form != "backbone":
        network = reid_network(network, num_identities=3)
    if form in ("embedding model", "file"):
        network = embedding_model(network)
    if form == "file":
        network.save(tmp_path / "model.keras")
        network = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    found = embed_samples(routes_of(network, PREPROCESSING), samples, batch_size=2)
    parts = by_modality(network)
    for sample, row in zip(samples, found, strict=True):
        part = parts[sample.modality]
        own = PREPROCESSING.of_shape((64, 32, 1 if sample.modality == "thermal" else 3))
        assert own.color_mode == ("grayscale" if sample.modality == "thermal" else "rgb")
        np.testing.assert_allclose(row, part(load_images([sample], own), training=False)[0], atol=1e-5)


def test_a_network_of_one_input_takes_all(samples):
    image = keras.Input(SHAPE)
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    found = embed_samples(routes_of(network, PREPROCESSING), samples)
    np.testing.assert_allclose(found, load_images(samples, PREPROCESSING).mean(axis=(1, 2)), atol=1e-5)


def test_progress_counts_images_and_nothing_is_nothing(samples):
    told = []
    routes = {"": Route(lambda images: images.mean(axis=(1, 2)), PREPROCESSING)}
    embed_samples(routes, samples, 2, told.append)
    assert told == [2, 2, 1]
    assert len(embed_samples(routes, [])) == 0


def test_an_image_that_no_input_takes_is_named(samples):
    routes = {"visible": Route(lambda images: images.mean(axis=(1, 2)), PREPROCESSING)}
    with pytest.raises(ValueError, match=r"1\.png is thermal, the model takes visible images"):
        embed_samples(routes, samples)


def test_retrieval_of_two_modalities_is_scored_across_them_too():
    """Person 1 and 2 look alike within a modality; across, the thermal image of 1 looks like the visible 2."""
    seen = [(1, "visible"), (2, "visible"), (1, "thermal"), (2, "thermal"), (2, "thermal")]
    samples = [Sample(Path(f"{n}.png"), person, 1 + n, modality) for n, (person, modality) in enumerate(seen)]
    vectors = {0: (1.0, 0.0), 1: (0.0, 1.0), 2: (0.1, 1.0), 3: (0.0, 1.0), 4: (0.0, 1.0)}

    def embed(some):
        return np.array([vectors[int(sample.path.stem)] for sample in some])

    values = retrieval(embed, samples[:2], samples[2:])
    assert set(values) < set(monitors([], retrieval=True, both_modalities=True))
    assert values["val_thermal_to_visible_rank1"] == pytest.approx(2 / 3)
    assert values["val_thermal_to_visible_mAP"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert set(retrieval(embed, samples[2:4], samples[4:])) == {"val_rank1", "val_mAP"}


def test_images_of_the_same_room_are_no_match_in_validation():
    """A person looks the same in one room, whatever the camera, and like nobody elsewhere."""
    vectors = {"room": (1.0, 0.0, 0.0), "elsewhere": (0.0, 1.0, 0.0), "other": (0.0, 0.0, 1.0)}
    thermal = Sample(Path("room.jpg"), 1, 3, "thermal", room=2)
    visible = [
        Sample(Path("room.png"), 1, 2, room=2),
        Sample(Path("elsewhere.png"), 1, 4),
        Sample(Path("other.png"), 2, 1),
        Sample(Path("room.bmp"), 2, 5),
    ]

    def embed(some):
        return np.array([vectors[sample.path.stem] for sample in some])

    values = retrieval(embed, [thermal], visible)
    assert values["val_rank1"] == values["val_thermal_to_visible_rank1"] == 0.0
    apart = [replace(sample, room=None) for sample in [thermal, *visible]]
    assert retrieval(embed, apart[:1], apart[1:4])["val_thermal_to_visible_rank1"] == 1.0


def test_people_whom_one_camera_saw_cannot_choose_the_best_epoch():
    training = [Sample(Path(f"{n}.png"), n, 1) for n in range(2)]
    seen = {
        name: [Sample(Path(f"{n}_{k}.png"), n, camera) for n in range(2, 5) for k, camera in enumerate(cameras(n))]
        for name, cameras in {
            "by one camera": lambda n: 2 * [1 + n % 2], "by two": lambda n: [1, 1, 2, 2],
        }.items()
    }  # fmt: skip
    _check_validation(Data(training, seen["by two"]), by_modality=False)
    _check_validation(Data(training, training), by_modality=False)
    with pytest.raises(
        ConfigError, match="best epoch cannot be chosen by the 6 validation images: .* two cameras or more"
    ):
        _check_validation(Data(training, seen["by one camera"]), by_modality=False)
