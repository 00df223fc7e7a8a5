import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from src.metrics.retrieval import retrieval_metrics
from src.metrics.sysu_mm01_draws import sysu_mm01_draws
from src.metrics.sysu_mm01_metrics import sysu_mm01_metrics

DATA = Path(__file__).parents[2] / "data"
LAYOUT = np.load(DATA / "sysu_mm01_layout.npz")
GOLDEN = json.loads((DATA / "sysu_mm01.json").read_text(encoding="utf-8"))
VISIBLE = (1, 2, 4, 5)


@pytest.fixture(scope="module")
def case():
    """Random features of 64 dimensions in the layout of the test set: identity + camera + noise."""
    random = np.random.RandomState(0)
    identities = LAYOUT["identities"].astype(int)
    people = {identity: random.randn(64) for identity in identities}
    cameras = {camera: random.randn(64) * 1.2 for camera in range(1, 7)}
    rows = [
        (0.45 * people[identity] + cameras[camera] + random.randn(64), identity, camera, frame)
        for camera in range(1, 7)
        for identity, images in zip(identities, LAYOUT["images"][:, camera - 1], strict=True)
        for frame in range(1, images + 1)
    ]
    features, ids, camera, frame = (np.array(column) for column in zip(*rows, strict=True))
    infrared = np.isin(camera, (3, 6))
    return {
        "query": features[infrared],
        "gallery": features[~infrared],
        "query_ids": ids[infrared],
        "gallery_ids": ids[~infrared],
        "query_cameras": camera[infrared],
        "gallery_cameras": camera[~infrared],
        "gallery_frames": frame[~infrared],
    }


def official_draws():
    return {
        (identity, camera): LAYOUT["draws"][i, c].astype(int)
        for i, identity in enumerate(LAYOUT["identities"].tolist())
        for c, camera in enumerate(VISIBLE)
        if LAYOUT["images"][i, camera - 1]
    }


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize(
    ("name", "shots", "draws"),
    [("perm_1shot", 1, True), ("perm_10shot", 10, True), ("randseed_1shot", 1, False)],
)
def test_golden_values_of_the_real_layout(case, mode, name, shots, draws):
    metrics = sysu_mm01_metrics(**case, mode=mode, shots=shots, draws=official_draws() if draws else None)
    expected = GOLDEN[f"{mode}/{name}"]
    for rank in (1, 5, 10, 20):
        assert 100 * metrics.rank(rank) == pytest.approx(expected[f"R{rank}"], abs=1e-4)
    assert 100 * metrics.mAP == pytest.approx(expected["mAP"], abs=1e-4)
    assert 100 * metrics.mINP == pytest.approx(expected["mINP"], abs=1e-4)
    assert {trial.num_gallery for trial in metrics.trials} == {expected["gallery"]}
    assert {trial.num_valid_queries for trial in metrics.trials} == {expected["valid_queries"]}
    assert len(metrics.trials) == 10 and metrics.spread["rank1"] > 0
    for word in (
        f"{mode}-search",
        "10-shot" if shots == 10 else "single-shot",
        "rand_perm_cam" if draws else "seed",
    ):
        assert word in metrics.sentence


def test_order_of_the_gallery_does_not_change_the_draws(case):
    order = np.random.default_rng(0).permutation(len(case["gallery"]))
    shuffled = case | {key: value[order] for key, value in case.items() if key.startswith("gallery")}
    one = sysu_mm01_metrics(**case, mode="indoor", trials=2)
    other = sysu_mm01_metrics(**shuffled, mode="indoor", trials=2)
    np.testing.assert_array_equal(one.cmc, other.cmc)
    assert one.mAP == pytest.approx(other.mAP, abs=1e-12)


def test_float32_features_give_the_same_scores(case):
    single = case | {"query": case["query"].astype(np.float32), "gallery": case["gallery"].astype(np.float32)}
    metrics = sysu_mm01_metrics(**single, mode="indoor")
    assert 100 * metrics.mAP == pytest.approx(GOLDEN["indoor/randseed_1shot"]["mAP"], abs=1e-3)


def save_draws(path, frames):
    """Frames of person 2 by two cameras, as MATLAB stores them; persons 1 and 3 have none."""
    cameras = np.empty((2, 1), object)
    for camera in range(2):
        people = np.empty((1, 3), object)
        people[:] = [[np.zeros((10, 0), np.uint8), frames, np.zeros((10, 0), np.uint8)]]
        cameras[camera, 0] = people
    scipy.io.savemat(path, {"rand_perm_cam": cameras})
    return path


def test_the_reader_of_the_official_draws(tmp_path):
    frames = np.arange(1, 21, dtype=np.uint8).reshape(10, 2)
    draws = sysu_mm01_draws(save_draws(tmp_path / "rand_perm_cam.mat", frames))
    assert set(draws) == {(2, 1), (2, 2)}
    np.testing.assert_array_equal(draws[2, 1], frames)


def test_draws_of_another_number_of_trials_are_refused(tmp_path):
    path = save_draws(tmp_path / "rand_perm_cam.mat", np.ones((9, 2), np.uint8))
    with pytest.raises(ValueError, match="rand_perm_cam.mat: expected 10 draws of each identity and camera"):
        sysu_mm01_draws(path)


@pytest.mark.parametrize("content", [b"", b"not a mat file" * 20, None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "rand_perm_cam.mat"
    if content is None:
        scipy.io.savemat(path, {"other": np.zeros(3)})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="rand_perm_cam.mat of SYSU-MM01"):
        sysu_mm01_draws(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "outdoor"}, "mode must be one of all, indoor"),
        ({"shots": 2}, "shots must be 1 or 10"),
        ({"trials": 11}, "trials 1 to 10"),
        ({"query_cameras": [1, 6]}, r"query_cameras of SYSU-MM01 must be among \(3, 6\), got \[1\]"),
        ({"gallery_cameras": [1, 2, 3]}, "gallery_cameras of SYSU-MM01 must be among"),
        ({"gallery_cameras": [4, 5, 4], "mode": "indoor"}, "no gallery image is of them"),
        ({"gallery_frames": [1, 2]}, r"gallery_frames must have shape \(3,\)"),
        ({"draws": {(1, 1): np.full((10, 3), 1)}}, "know no image of identity 2 in camera 2"),
        (
            {"draws": {(i, c): np.full((10, 3), 7) for i in (1, 2) for c in (1, 2)}},
            "needs frame 7 of identity 1",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {
        "query": np.eye(4)[:2],
        "gallery": np.eye(4)[:3],
        "query_ids": [1, 2],
        "gallery_ids": [1, 2, 2],
        "query_cameras": [3, 6],
        "gallery_cameras": [1, 2, 2],
        "gallery_frames": [1, 1, 2],
    }
    with pytest.raises(ValueError, match=message):
        sysu_mm01_metrics(**(arguments | change))


def test_camera_3_does_not_see_camera_2():
    gallery = np.array([[1.0, 0], [1, 0.1], [1, 0.2]])
    arguments = (np.array([[1.0, 0]]), gallery, [1], [2, 2, 1])
    for camera, rank in ((3, 1), (6, 2)):
        metrics = retrieval_metrics(*arguments, [camera], [2, 2, 1], protocol="sysu_mm01")
        # Camera 6 sees two images of another person first: one rank for CMC, two for average precision.
        assert metrics.first_match.tolist() == [rank]
        assert metrics.average_precision[0] == pytest.approx({3: 1, 6: 1 / 3}[camera])
    alone = retrieval_metrics(*arguments, [3], [2, 2, 4], protocol="sysu_mm01")
    assert alone.mAP == 1
    with pytest.raises(ValueError, match="none of 1 queries"):
        retrieval_metrics(*arguments, [3], [2, 2, 2], protocol="sysu_mm01")
