"""Evaluation: what is measured beyond CMC and mAP, which files are left, and every mistake that a user can make."""

import csv
import importlib
import logging

import keras
import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError, validate
from common.run import Run
from src.metrics._images import Images
from src.metrics.retrieval import retrieval_metrics
from src.pipeline import SERVICES, _preflight, _starting_model
from src.schema import Config
from src.services._analysis import modality_numbers


def _people(folder, first, count, images):
    """`images` pictures of each person by two cameras: the person's own colour, and noise."""
    folder.mkdir()
    random = np.random.default_rng(first)
    for person in range(first, first + count):
        colour = np.random.default_rng(person).uniform(40, 215, 3)
        for camera in (1, 2):
            for number in range(images):
                pixels = np.clip(colour + random.normal(0, 9, 3) + random.normal(0, 3, (48, 24, 3)), 0, 255)
                name = f"p{person}_c{camera}_{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve people to test and ten others to choose a threshold on; a network whose embedding is the mean colour."""
    folder = tmp_path_factory.mktemp("data")
    _people(folder / "query", 0, 12, 2)
    _people(folder / "gallery", 0, 12, 3)
    _people(folder / "validation", 100, 10, 4)
    _people(folder / "same_people", 0, 12, 2)
    with (folder / "query/metadata.csv").open("w") as file:
        file.write("file,place\n")
        for path in sorted((folder / "query").glob("*.png")):
            file.write(f"{path.name},{'yard' if int(path.stem.split('_')[0][1:]) % 2 else 'street'}\n")
    image = keras.Input((32, 32, 3))
    features = keras.layers.Rescaling(1, -0.5)(keras.layers.GlobalAveragePooling2D()(image))
    keras.Model(image, features, name="mean_colour").save(folder / "mean_colour.keras")
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Pictures take seconds and have their own tests."""
    service = importlib.import_module(SERVICES["evaluation"])
    monkeypatch.setattr(service, "evaluation_pictures", lambda *_: [])


def _config(data, dataset=None, **evaluation):
    return validate(
        Config,
        {
            "operation_mode": "evaluation",
            "model": {"model_path": str(data / "mean_colour.keras")},
            "dataset": {
                "test_query_path": str(data / "query"),
                "test_gallery_path": str(data / "gallery"),
                **(dataset or {}),
            },
            "preprocessing": {"rescaling": {"scale": 1 / 255, "offset": 0.0}},
            "evaluation": evaluation,
        },
    )


def _evaluate(tmp_path, config):
    service = importlib.import_module(SERVICES["evaluation"])
    model = _starting_model(config)
    images = _preflight(config, {"evaluation": service}, model, Run(tmp_path, 0))
    return service.run(config, images, model, Run(tmp_path, 0))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """Folder and report of an evaluation as it is by default, with its pictures."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, _evaluate(folder, _config(data))


def test_a_report_holds_certainty_verification_and_unknown_people(data, tmp_path):
    report = _evaluate(tmp_path, _config(data, {"validation_path": str(data / "validation")}))
    metrics = {name.removeprefix("float32/keras/"): value for name, value in report.metrics.items()}
    assert 0.5 < metrics["rank1_low"] <= metrics["rank1"] <= metrics["rank1_high"] <= 1
    assert metrics["mAP_low"] < metrics["mAP"] < metrics["mAP_high"]
    assert 0 < metrics["eer"] < 0.3 and 0 < metrics["tar_at_fmr_0.01"] < 1
    assert "tar_at_fmr_0.0001" not in metrics, "3,000 impostor pairs do not support one error in 10,000"
    assert 0 <= metrics["false_match_rate"] < 0.1 and metrics["threshold"] > 0
    titles = [table.title for table in report.tables]
    assert titles[1].startswith("Certainty") and titles[2].startswith("Verification")
    assert any(note.startswith("The suggested thresholds") for note in report.notes)


def test_where_the_errors_are(plain):
    tables = {table.title.split(" of ")[0].split(" (")[0]: table for table in plain[1].tables}
    assert {"By camera", "By brightness", "By place"} <= set(tables)
    assert [row[0] for row in tables["By place"].rows] == ["street", "yard"]
    assert sum(row[1] for row in tables["By place"].rows) == 48
    assert {tuple(row[:2]) for row in tables["By camera"].rows} == {("1", "2"), ("2", "1")}
    assert not [title for title in tables if "height" in title], "all images are of one size"


def test_directions_between_modalities_are_numbers():
    modalities = np.array(["visible", "visible", "thermal", "thermal"])
    people, cameras = np.array([0, 1, 2, 3]), np.array([1, 1, 3, 3])
    side = Images(np.eye(4), people, cameras, modalities, people, cameras)
    gallery = Images(np.eye(4), np.array([0, 1, 1, 0]), cameras + 1, modalities, people, cameras + 1)
    metrics = retrieval_metrics(
        side.features, gallery.features, side.ids, gallery.ids, side.cameras, gallery.cameras
    )
    numbers = modality_numbers(side, gallery, metrics)
    assert numbers["visible_to_visible_rank1"] == 1.0
    assert numbers["visible_to_thermal_rank1"] == 0.0
    one = np.array([True, True, False, False])
    assert modality_numbers(side[one], gallery[one], metrics) == {}


def test_files_for_people_with_pictures_and_for_programs(plain):
    folder, report = plain
    names = {path.name for path in report.files}
    assert {"report.html", "cmc.png", "roc.png", "mean_colour_keras_queries.csv"} <= names
    assert all(path.stat().st_size > 0 for path in report.files)
    page = (folder / "evaluation/report.html").read_text()
    assert "protocol market1501" in page and "No threshold is suggested" in page
    with (folder / "evaluation/mean_colour_keras_queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    precisions = [float(row["average_precision"]) for row in rows]
    assert np.mean(precisions) == pytest.approx(report.metrics["float32/keras/mAP"])


@pytest.mark.parametrize(
    "reranking",
    [
        {"k_reciprocal_distances": {"k1": 6, "k2": 2}},
        {"average_query_expansion": {"k": 2}},
        "neighbor_feature_centralization",
    ],
)
def test_a_reranked_row_stands_beside_the_plain_one_and_says_so(data, plain, tmp_path, reranking):
    report = _evaluate(tmp_path, _config(data, reranking=reranking))
    name = reranking if isinstance(reranking, str) else next(iter(reranking))
    assert report.metrics["float32/keras/mAP"] == plain[1].metrics["float32/keras/mAP"]
    assert report.metrics[f"float32/keras/{name}/mAP"] != report.metrics["float32/keras/mAP"]
    assert report.tables[0].rows[1][0] == f"mean_colour.keras + {name}"
    assert any(note.startswith(f"Rows with {name}") for note in report.notes)


def test_a_drawn_protocol_gives_the_spread_and_pictures_of_one_gallery(data, tmp_path):
    report = _evaluate(tmp_path, _config(data, protocol={"vehicleid": {"trials": 3}}))
    assert "float32/keras/mAP_deviation" in report.metrics and "float32/keras/rank1_low" not in report.metrics
    assert report.notes[0].startswith("Mean of 3 trials")
    assert report.notes[1].startswith("Verification, breakdowns and pictures use one gallery")


@pytest.mark.parametrize(
    ("people", "embedded"),
    [
        (None, [("qnn_htp_emulator", 48, 72, 80)]),
        (3, [("host", 12, 18, 0), ("qnn_htp_emulator", 12, 18, 0)]),
        (12, [("qnn_htp_emulator", 48, 72, 0)]),
        (99, [("qnn_htp_emulator", 48, 72, 0)]),
    ],
)
def test_the_emulator_embeds_all_images_or_those_of_some_people(
    data, tmp_path, monkeypatch, people, embedded
):
    service = importlib.import_module(SERVICES["evaluation"])
    config = _config(
        data,
        {"validation_path": str(data / "validation")},
        target="qnn_htp_emulator",
        **({"emulated_identities": people} if people else {}),
    )
    seen = []

    def score_file(config, images, model, role, target, seed):
        seen.append((target, len(images.query), len(images.gallery), len(service._threshold_samples(images))))
        return iter(())

    monkeypatch.setattr(service, "_score_file", score_file)
    monkeypatch.setattr(service, "check_target", lambda *_: None)
    model = _starting_model(config)
    images = _preflight(config, {"evaluation": service}, model, Run(tmp_path, 0))
    assert list(service._emulated(config, images, model, 0)) == []
    assert seen == embedded


def test_a_threshold_is_not_chosen_on_the_people_who_are_tested(data, tmp_path):
    report = _evaluate(tmp_path, _config(data, {"validation_path": str(data / "same_people")}))
    assert "float32/keras/threshold" not in report.metrics
    assert any(note.startswith("No threshold is suggested") for note in report.notes)


def test_a_rate_that_the_validation_pairs_do_not_support_is_not_extrapolated(data, tmp_path, caplog):
    config = _config(data, {"validation_path": str(data / "validation")}, false_match_rate=1e-6)
    with caplog.at_level(logging.WARNING):
        report = _evaluate(tmp_path, config)
    assert "evaluation.false_match_rate: no threshold is suggested" in caplog.text
    assert "float32/keras/threshold" not in report.metrics


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (
            {"protocol": "sysu_mm01"},
            "evaluation.protocol: protocol sysu_mm01 needs files named by their number",
        ),
        ({"protocol": "regdb"}, "needs visible and thermal images"),
        (
            {"protocol": "vehicleid", "reranking": "k_reciprocal_distances"},
            "needs one gallery for all queries, which evaluation.protocol does not have: use average_query_expansion",
        ),
    ],
)
def test_what_does_not_fit_the_images_is_answered_before_anything_is_embedded(
    data, tmp_path, evaluation, message
):
    with pytest.raises(ConfigError, match=message):
        _evaluate(tmp_path, _config(data, **evaluation))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"protocol": "market-1501"}, "unknown protocol 'market-1501', did you mean 'market1501'"),
        ({"protocol": {"sysu_mm01": {"modes": "all"}}}, "has no argument 'modes', did you mean 'mode'"),
        ({"protocol": {"regdb": {"query": 1}}}, "protocol 'regdb' has no argument 'query'"),
        ({"reranking": {"k_reciprocal_distances": {"k": 2}}}, "has no argument 'k'"),
        ({"false_match_rate": 0}, "evaluation.false_match_rate: should be greater than 0"),
    ],
)
def test_misspelt_settings_are_answered_without_images(data, evaluation, message):
    with pytest.raises(ConfigError, match=message):
        _config(data, **evaluation)
