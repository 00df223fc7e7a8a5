"""The measure itself; what it measures on `bench` takes minutes and is in docs/README_SYNTHETIC_DATA.md."""

import math

import numpy as np
import pytest

from datasets.synthetic import generate
from src.tools import difficulty
from src.tools.difficulty import Images, Scores, missed, single_shot


def labels_only(identities, cameras, thermal):
    count = len(identities)
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    return Images(pixels, np.array(identities), np.array(cameras), np.full(count, thermal))


def test_single_shot_against_the_obvious_way():
    rng = np.random.default_rng(3)
    people, stations = (axis.ravel() for axis in np.meshgrid(np.arange(12), (1, 2, 4, 5)))
    shown = labels_only(people, stations, False)  # one image each, so that every draw is the whole gallery
    asking = labels_only(rng.integers(12, size=60), rng.choice((3, 6), 60), True)
    gallery, query = rng.standard_normal((48, 6)), rng.standard_normal((60, 6))
    query += 1.2 * gallery[asking.identities]
    right = 0
    for feature, identity, camera in zip(query, asking.identities, asking.cameras, strict=True):
        candidates = [
            (np.dot(feature, other) / np.linalg.norm(other), person)
            for other, person, station in zip(gallery, people, stations, strict=True)
            if not (camera == 3 and station == 2)
        ]
        right += max(candidates)[1] == identity
    assert single_shot(query, gallery, asking, shown) == pytest.approx(right / 60)
    assert 0.2 < right / 60 < 0.9


def test_single_shot_draws_one_image_per_person_and_camera():
    # Of person 0, one of four images is right; person 1 wins against the three others.
    shown = labels_only([0] * 4 + [1], [1] * 5, False)
    gallery = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [1, 0.1]], float)
    result = single_shot(np.array([[1.0, 0.0]]), gallery, labels_only([0], [6], True), shown)
    assert 0 < result < 1
    assert result * difficulty.TRIALS == pytest.approx(round(result * difficulty.TRIALS))


@pytest.mark.parametrize(
    ("kind", "visible", "cross", "expected"),
    [
        ("baseline", 14.9, 2.9, False),
        ("baseline", 15.1, 1.0, True),
        ("baseline", 3.0, 3.1, True),
        ("baseline", 3.0, math.nan, False),
        ("network", 60.1, 25.1, False),
        ("network", 59.0, 40.0, True),
        ("network", 80.0, 24.0, True),
        ("network", 80.0, math.nan, False),
    ],
)
def test_bars(kind, visible, cross, expected):
    assert missed(kind, Scores(visible, 50.0, cross)) is expected


def test_batches_hold_both_modalities_of_each_person(monkeypatch):
    rng = np.random.default_rng(0)
    thermal = np.tile([False, False, False, True, True, True], 20)
    people = np.repeat(np.arange(20) * 7, 6)
    pixels = rng.integers(0, 256, (120, difficulty.HEIGHT, difficulty.WIDTH, 3), dtype=np.uint8)
    images = Images(pixels, people, np.ones(120, int), thermal)
    seen = []
    monkeypatch.setattr(difficulty, "_augmented", lambda p, t, _: seen.append(t) or p)
    P, K = difficulty.BATCH
    for _, labels in difficulty._batches(images, 3, rng):
        assert np.unique(labels, return_counts=True)[1].tolist() == [K] * P
    assert all(mask.sum() == P * K // 2 for mask in seen)


def test_augmentation_keeps_range_and_leaves_thermal_grey():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, difficulty.HEIGHT, difficulty.WIDTH, 1), dtype=np.uint8).repeat(
        3, axis=-1
    )
    result = difficulty._augmented(grey, np.ones(40, bool), rng)
    assert result.shape == grey.shape
    assert result.min() >= 0
    assert result.max() <= 255
    assert np.ptp(result, axis=-1).max() == 0
    assert (np.abs(result - grey).mean(axis=(1, 2, 3)) > 1).mean() > 0.9


@pytest.mark.slow
def test_the_command_prints_every_method_and_misses_the_bars_untrained(tmp_path, capsys):
    root = generate("tiny", tmp_path / "tiny", progress=False)
    assert difficulty.main(["--preset", "tiny", "--root", str(root), "--steps", "1"]) == 1
    printed = capsys.readouterr().out
    for name in ("mean_colour", "raw_pixels", "hsv_stripes", "random network", "plain network"):
        assert name in printed
    assert "MISSED" in printed
