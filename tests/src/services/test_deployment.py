"""Deployment: what is in the package, the runners against Keras, the checklist, and mistakes that a user can make."""

import hashlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from PIL import Image

from common.artifacts import Model, Report, ReportFailedError, Table
from common.config import ConfigError, validate
from common.deployment import gate, qnn_htp
from common.run import Run
from common.runtime import open_model
from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data
from src.pipeline import _preflight, _starting_model
from src.schema import Card, Config
from src.services import _model_card, benchmarking, deployment
from src.services._checklist import measured, reports_of, requirements, stated

pytestmark = pytest.mark.qnn

SHAPE, DIM = (64, 32, 3), 24
THREADS = 2
RUNNERS = Path(gate.__file__).parent / "runners"
PREPROCESSING = {
    "input_shape": SHAPE, "scale": 1 / 127.5, "offset": -1.0, "interpolation": "bilinear", "aspect_ratio": "fit",
    "color_mode": "rgb",
}  # fmt: skip


def _photo(path: Path, size=(53, 97), seed=0) -> Path:
    """Smooth colours with some noise, so that nothing hides behind a flat image."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 5, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noise = random.integers(-12, 13, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def _network() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(DIM, 3, strides=2, padding="same")(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    """A folder with float `best_model.keras` and INT8 `quantized_model.onnx` and `.tflite`, with their manifests."""
    from common.quantization import onnx_export, tflite
    from common.quantization.onnx_ptq import quantize_onnx
    from common.quantization.qat import prepare_qat

    folder = tmp_path_factory.mktemp("models")
    network = _network()
    network.save(folder / "best_model.keras")
    photos = [Sample(_photo(folder / f"{i}.png", seed=i), f"p{i}", 0) for i in range(24)]
    images = load_images(photos, Preprocessing(**PREPROCESSING))

    def calibration():
        return iter([images])

    graph = quantize_onnx(onnx_export.export_onnx(network), calibration, "per_channel", "MinMax")
    onnx.save(graph, folder / "quantized_model.onnx")
    (folder / "quantized_model.tflite").write_bytes(
        tflite.convert_qat(prepare_qat(network, calibration), "float", "float")
    )
    trained_on = {"dataset_name": "my|set", "identities": 6, "images": 24, "model_name": "two_convolutions"}
    source = Model({"keras": folder / "best_model.keras"}, "float32", SHAPE, DIM, PREPROCESSING, trained_on)
    source.save()
    files = {"onnx": folder / "quantized_model.onnx", "tflite": folder / "quantized_model.tflite"}
    replace(source, files=files, precision="int8", source=source).save()
    return folder


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The compiler takes seconds: what it made of a graph is copied when it is asked again."""
    known = {}

    def compile_htp(onnx_path, out_dir, *settings):
        key = onnx_path.name, onnx_path.read_bytes(), settings
        if key not in known:
            known[key] = qnn_htp.compile_htp(onnx_path, tmp_path_factory.mktemp("htp"), *settings)
        made = known[key]
        shutil.copytree(made.context.parent, out_dir, dirs_exist_ok=True)
        files = ("context", "context_binary", "dlc", "graph_json", "trace_json")
        return replace(made, **{name: out_dir / getattr(made, name).name for name in files})

    with pytest.MonkeyPatch.context() as patch:
        for service in (benchmarking, deployment):
            patch.setattr(service, "compile_htp", compile_htp)
        yield


def _config(path: Path, **changes) -> Config:
    general = {"num_threads": THREADS}
    raw = {"operation_mode": "deployment", "general": general, "model": {"model_path": str(path)}, **changes}
    return validate(Config, raw)


def _checked(config: Config, folder: Path) -> Model | None:
    model = _starting_model(config)
    _preflight(config, {"deployment": deployment}, model, Run(folder, 0))
    return model


def _deploy(model_path: Path, folder: Path, **changes) -> Report:
    config = _config(model_path, **changes)
    return deployment.run(config, Data(), _checked(config, folder), Run(folder, 0))


@pytest.fixture(scope="module")
def deployed(quantized, tmp_path_factory):
    """The folder `deployment` of a run, and its report."""
    folder = tmp_path_factory.mktemp("run")
    report = _deploy(quantized / "quantized_model.onnx", folder)
    return folder / "deployment", report


@pytest.fixture(scope="module")
def package(deployed) -> Path:
    return deployed[0] / "package"


def _read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------------------
# The package


def test_the_package_is_complete(deployed, quantized):
    folder, report = deployed
    names = {path.name for path in (folder / "package").iterdir()}
    assert names == {
        "README.md", "MODEL_CARD.md", "SHA256SUMS", "package.json", "preprocessing.json", "gate.json", "runner.py",
        "runner.cpp", "quantized_model.onnx", "quantized_model.tflite", "quantized_model_qcs8550.onnx",
        "quantized_model_qcs8550_qnn.bin", "quantized_model_qcs8550.dlc", "encodings_legacy.json",
        "encodings_1.0.0.json", "encodings_2.0.0.json",
    }  # fmt: skip
    with zipfile.ZipFile(folder / "package.zip") as archive:
        assert {Path(name).name for name in archive.namelist()} == names
    for line in (folder / "package/SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / "package" / name).read_bytes()).hexdigest() == digest
    assert {path.name for path in folder.iterdir()} == {"package", "package.zip", "gate.json"}
    assert report.metrics["package/bytes"] == (folder / "package.zip").stat().st_size
    original = (quantized / "quantized_model.onnx").read_bytes()
    assert (folder / "package/quantized_model.onnx").read_bytes() == original


def test_preprocessing_and_roles_are_data(package):
    [first] = _read(package / "preprocessing.json")["inputs"]
    assert first == {
        "name": "images", "layout": "NHWC", "height": 64, "width": 32, "channels": 3, "color_order": "RGB",
        "aspect_ratio": "fit", "interpolation": "bilinear", "antialias": False, "rounded_to": "uint8",
        "scale": 1 / 127.5, "offset": -1.0,
    }  # fmt: skip
    manifest = _read(package / "package.json")
    chip = {"name": "QCS8550", "soc_model": 66, "hexagon": "v73", "performance_mode": "burst"}
    assert manifest["chip"] == chip
    assert (manifest["embedding_dim"], manifest["precision"]) == (DIM, "int8")
    assert set(manifest["files"]) == {"onnx", "tflite", "qnn_context", "qnn_context_binary", "dlc"}
    assert all((package / name).is_file() for name in manifest["files"].values())
    with open_model(package / manifest["files"]["qnn_context"], threads=1) as context:
        assert (context.name, context.input_shape) == ("qnn_htp_emulator", SHAPE)


@pytest.mark.parametrize("name", ["package.json", "preprocessing.json"])
def test_a_key_that_the_cpp_runner_reads_occurs_once(package, name):
    text = (package / name).read_text()
    keys = set(re.findall(r'\w_of\(\w+, (?:npu \? )?"(\w+)"', (RUNNERS / "runner.cpp").read_text()))
    keys |= {"onnx", "qnn_context"}
    assert {"output", "soc_model", "scale", "interpolation"} <= keys
    assert all(text.count(f'"{key}":') <= 1 for key in keys)


def test_the_card_states_what_is_known_and_says_unknown(package):
    card = (package / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| network | two_convolutions |" in card
    assert "| data set | my\\|set |" in card
    assert "| identities | 6 |" in card
    assert "| licence of the weights | unknown |" in card
    assert "| licence and consent | unknown |" in card
    assert "Unknown: the run that made this package did not evaluate the model." in card
    assert "| convolutions in integer | 2 of 2 |" in card
    assert f"| onnx | {onnx.__version__} | Apache-2.0 |" in card
    assert "| Rank-1 of the INT8 model | at least 0.68 | - | not measurable here |" in card


def test_the_card_tells_what_the_other_services_measured_and_what_the_owners_state():
    tables = (
        Table("Float and INT8 on 6 queries", ("model", "rank1, %"), (("quantized_model.onnx", "41.0"),)),
        Table("1 - cosine between INT8 files", ("file", "gate"), (("quantized_model.onnx", "passed"),)),
    )
    latency = Table("Latency of one image on this host's CPU", ("runtime",), (("tflite",),))
    reports = {
        "quantization": Report(
            "quantization", {}, tables, notes=("Comparison on the test set: market1501", "Step 0")
        ),
        "benchmarking": Report(
            "benchmarking", {}, (Table("Operator placement", ("type",), (("Conv2d",),)), latency)
        ),
    }
    scores = _model_card._scores(reports)
    assert "| quantized_model.onnx | 41.0 |" in scores and scores.endswith(
        "Comparison on the test set: market1501"
    )
    sections = _model_card._measured(reports)
    assert (
        "| quantized_model.onnx | passed |" in sections["Quantization"]
        and "41.0" not in sections["Quantization"]
    )
    assert "tflite" in sections["Benchmark"] and "Conv2d" not in sections["Benchmark"]
    model = Model({"onnx": Path("m.onnx")}, "int8", SHAPE, DIM)
    facts = _model_card.Facts(model, None, reports, tables[0], Card(licence="MIT", consent="signed"))
    assert _model_card._model(facts)["licence of the weights"] == "MIT"
    assert _model_card._data(facts)["licence and consent"] == "signed"


def test_without_an_evaluation_there_are_no_thresholds_and_it_is_said(deployed):
    _, report = deployed
    assert report.failure is None
    assert "thresholds.json is absent: no evaluation of this run states a threshold." in report.notes


def test_a_model_without_tflite_has_none_in_its_package_and_it_is_said(quantized, tmp_path):
    shutil.copy(quantized / "quantized_model.onnx", tmp_path / "alone.onnx")
    Model({"onnx": tmp_path / "alone.onnx"}, "int8", SHAPE, DIM, PREPROCESSING).save()
    report = _deploy(tmp_path / "alone.onnx", tmp_path, deployment={"board": "SM8650"})
    assert not list((tmp_path / "deployment/package").glob("*.tflite"))
    assert (tmp_path / "deployment/package/alone_sm8650.dlc").is_file()
    assert any("There is no .tflite in the package" in note for note in report.notes)
    card = (tmp_path / "deployment/package/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| data set | unknown |" in card and "| made from | unknown |" in card


# --------------------------------------------------------------------------------------------------------------
# A graph that computes something else


def _wrong(context, images, threads):
    assert threads == THREADS
    return np.tile(np.eye(DIM, dtype=np.float32)[0], (len(images), 1))


def test_a_context_that_computes_something_else_is_not_packed(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "emulated", _wrong)
    with pytest.raises(
        ReportFailedError, match=r"packs nothing: .*qcs8550.onnx against quantized_model.onnx"
    ):
        _deploy(quantized / "quantized_model.onnx", tmp_path)
    assert list((tmp_path / "deployment").iterdir()) == []


def _benchmark(model_path: Path, photos: Path, folder: Path) -> Report:
    section = {"parity_images": 3, "latency_runs": 1}
    dataset = dict.fromkeys(("test_query_path", "test_gallery_path"), str(photos))
    config = _config(model_path, operation_mode="benchmarking", benchmarking=section, dataset=dataset)
    samples = [Sample(photos / f"{i}.png", f"p{i}", 0) for i in range(4)]
    return benchmarking.run(config, Data(query=samples), _starting_model(config), Run(folder, 0))


@pytest.mark.parametrize("name", ["quantized_model.onnx", "best_model.keras"])
def test_a_benchmark_of_a_wrong_graph_fails(quantized, tmp_path, monkeypatch, name):
    right = _benchmark(quantized / name, quantized, tmp_path / "right")
    assert right.failure is None
    monkeypatch.setattr(benchmarking, "emulated", _wrong)
    wrong = _benchmark(quantized / name, quantized, tmp_path / "wrong")
    stem = Path(name).stem
    assert f"{stem}_qcs8550.onnx against {stem}.onnx: the mean gap" in wrong.failure
    assert "qnn_htp_emulator/parity_cosine_mean" in wrong.metrics


def test_an_export_that_is_not_the_network_fails(quantized, tmp_path, monkeypatch):
    from common.quantization import onnx_export

    def export(network):
        network.set_weights([weights + 0.1 for weights in network.get_weights()])
        return exported(network)

    exported = onnx_export.export_onnx
    monkeypatch.setattr(onnx_export, "export_onnx", export)
    report = _benchmark(quantized / "best_model.keras", quantized, tmp_path)
    assert report.failure.startswith("best_model.onnx against best_model.keras: the mean gap")


# --------------------------------------------------------------------------------------------------------------
# The checklist


def _evaluation(folder: Path, **metrics: float) -> None:
    named = {f"int8/onnxruntime_cpu/{name}": value for name, value in metrics.items()}
    table = Table(
        "Retrieval on the test set, %",
        ("model", "rank1"),
        (("quantized_model.onnx", "91.0"), ("other", None)),
    )
    report = Report(
        "evaluation",
        {**named, "float32/keras/rank1": 0.1, "float32/keras/threshold": 0.5},
        (table,),
        (),
        ("18 queries; protocol market1501.",),
    )
    report.save(folder / "evaluation/metrics.json")


def _chain_config(path: Path, **gate_section) -> Config:
    return _config(
        path,
        operation_mode="chain_ed",
        dataset={"test_query_path": "query", "test_gallery_path": "gallery"},
        deployment={"gate": gate_section},
    )


@pytest.fixture(scope="module")
def evaluated(quantized, tmp_path_factory):
    """A run in which an evaluation came first: its folder and the report of deployment."""
    folder = tmp_path_factory.mktemp("evaluated")
    _evaluation(folder, rank1=0.91, threshold=0.31, false_match_rate=0.06, false_non_match_rate=0.02)
    config = _chain_config(quantized / "quantized_model.onnx", size_mb=1, scenes=None)
    return folder, deployment.run(config, Data(), _starting_model(config), Run(folder, 0))


def test_an_evaluation_of_the_run_goes_into_card_thresholds_and_checklist(evaluated):
    folder, report = evaluated
    package = folder / "deployment/package"
    assert _read(package / "thresholds.json") == {
        "distance_metric": "cosine",
        "rule": "the same person up to this distance between L2-normalised embeddings",
        "thresholds": [
            {"measured_on": "onnxruntime_cpu", "threshold": 0.31, "false_match_rate": 0.06,
             "false_non_match_rate": 0.02}
        ],
        "notes": ["18 queries; protocol market1501."],
    }  # fmt: skip
    card = (package / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| quantized_model.onnx | 91.0 |" in card and "18 queries; protocol market1501." in card
    assert "| other | - |" in card
    checklist = _read(package / "gate.json")
    assert checklist == _read(folder / "deployment/gate.json")
    assert "scenes" not in checklist
    verdicts = {name: (item["verdict"], item["measured"]) for name, item in checklist.items()}
    assert verdicts["rank1"] == ("pass", 0.91)
    assert verdicts["false_match_rate"] == ("fail", 0.06)
    assert verdicts["size_mb"][0] == "pass" and 0.01 < verdicts["size_mb"][1] < 1
    assert verdicts["latency_ms"] == ("not measurable here", None)
    assert checklist["rank1"]["reason"] == "evaluation of this run, onnxruntime_cpu"
    assert (report.metrics["gate/passed"], report.metrics["gate/failed"]) == (2, 1)
    assert report.metrics["gate/not_measurable"] == len(checklist) - 3


def test_a_report_of_an_earlier_run_in_the_same_folder_does_not_count(tmp_path):
    _evaluation(tmp_path, rank1=0.99)
    assert reports_of(tmp_path, ("deployment",)) == {}
    assert list(reports_of(tmp_path, ("evaluation", "deployment"))) == ["evaluation"]


def test_the_emulator_comes_before_the_cpu_and_a_benchmark_speaks_for_the_chip_only():
    scores = {
        "int8/onnxruntime_cpu/rank1": 0.8,
        "int8/qnn_htp_emulator/rank1": 0.7,
        "float32/keras/thermal_to_thermal_rank1": 0.9,
        "int8/onnxruntime_cpu/visible_to_thermal_rank1": 0.5,
        "int8/onnxruntime_cpu/thermal_to_visible_rank1": 0.4,
    }
    benchmark = {"onnxruntime_cpu/host/latency_ms": 1.0, "device/latency_ms": 3.1}
    found = measured({"evaluation": scores, "benchmarking": benchmark}, 26_000_000)
    assert {name: (m.value, m.source) for name, m in found.items()} == {
        "size_mb": (26.0, "the compiled files in the package"),
        "rank1": (0.7, "evaluation of this run, qnn_htp_emulator"),
        "day_to_night_rank1": (0.4, "evaluation of this run, onnxruntime_cpu"),
        "latency_ms": (3.1, "benchmarking on the chip in this run"),
    }


def test_values_that_were_measured_elsewhere_count_with_their_source(tmp_path):
    content = {
        "latency_ms": {"value": 5.2, "source": "qnn-net-run on a QCS8550"},
        "edge_cases": {"value": True, "source": "field test"},
    }
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(content))
    section = _config(Path("m.onnx"), deployment={"gate": {"measurements": str(path)}}).deployment.gate
    checklist = gate.plain(gate.judge(requirements(section), stated(section)))
    assert (checklist["latency_ms"]["verdict"], checklist["latency_ms"]["reason"]) == (
        "fail", "qnn-net-run on a QCS8550",
    )  # fmt: skip
    assert (checklist["edge_cases"]["verdict"], checklist["edge_cases"]["measured"]) == ("pass", True)


@pytest.mark.parametrize("on_failure", ["warn", "fail"])
def test_a_failed_checklist_is_a_warning_or_a_failure(quantized, tmp_path, caplog, on_failure):
    section = {"gate": {"size_mb": 0.001, "on_failure": on_failure}}
    report = _deploy(quantized / "quantized_model.onnx", tmp_path, deployment=section)
    sentence = "deployment.gate: 1 of 11 requirements failed: size_mb at most 0.001, measured"
    assert (sentence in caplog.text) == (on_failure == "warn")
    assert (report.failure or "").startswith(sentence) == (on_failure == "fail")
    assert (tmp_path / "deployment/package.zip").is_file()


@pytest.mark.slow
def test_a_failed_checklist_gives_the_exit_code_1_once_everything_is_kept(quantized, tmp_path, program):
    from mlflow.tracking import MlflowClient

    done = program(
        "--config-name", "deployment_config.yaml", "deployment.gate.on_failure=fail", "deployment.gate.size_mb=0.001",
        f"hydra.run.dir={tmp_path}/out", f"mlflow.uri={tmp_path}/mlruns", MODELS_DIR=str(quantized),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Target checklist" in done.stdout + done.stderr
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith("error: deployment.gate: 1 of 11 requirements failed")
    )
    assert _read(tmp_path / "out/deployment/metrics.json")["metrics"]["gate/failed"] == 1
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    [stage] = [run for run in runs if run.info.run_name == "deployment"]
    assert (stage.data.metrics["gate/failed"], stage.data.metrics["gate/size_mb/passed"]) == (1, 0)
    kept = {item.path for item in client.list_artifacts(stage.info.run_id, "deployment")}
    assert {"deployment/package.zip", "deployment/gate.json"} <= kept


# --------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"deployment.gate.measurements: cannot read .*measured.json: No such file"),
        ("{", r"measured.json is not JSON"),
        ("[]", r"must hold an object of items, received list"),
        ('{"latency": {"value": 1, "source": "x"}}', r"unknown item 'latency', did you mean 'latency_ms'"),
        ('{"size_mb": {"value": 1, "source": "x"}}', r"'size_mb' is measured here and cannot be stated"),
        (
            '{"latency_ms": 3.1}',
            r"'latency_ms': expected {\"value\": ..., \"source\": \"...\"}, received 3.1",
        ),
        (
            '{"latency_ms": {"value": 3.1, "source": " "}}',
            r"'latency_ms': expected a source, .* received \" \"",
        ),
        (
            '{"latency_ms": {"value": "3 ms", "source": "x"}}',
            r"'latency_ms': expected a finite number .*\"3 ms\"",
        ),
        ('{"latency_ms": {"value": true, "source": "x"}}', r"'latency_ms': expected a finite number .* true"),
        ('{"latency_ms": {"value": NaN, "source": "x"}}', r"'latency_ms': expected a finite number .* NaN"),
        ('{"rank1": {"value": 41, "source": "x"}}', r"'rank1': expected a share in \[0, 1\], .* received 41"),
        ('{"edge_cases": {"value": 1, "source": "x"}}', r"'edge_cases': expected true or false, received 1"),
    ],
)
def test_a_file_of_measurements_that_cannot_be_used_is_refused(quantized, tmp_path, content, message):
    path = tmp_path / "measured.json"
    if content is not None:
        path.write_text(content)
    config = _config(quantized / "quantized_model.onnx", deployment={"gate": {"measurements": str(path)}})
    with pytest.raises(ConfigError, match=message):
        _checked(config, tmp_path)


def test_a_float_a_free_and_a_compiled_graph_are_refused(quantized, package, tmp_path):
    from common.quantization.onnx_export import export_onnx

    path = tmp_path / "float.onnx"
    onnx.save(export_onnx(_network()), path)
    with pytest.raises(
        ConfigError, match=r"an INT8 \(QDQ\) .onnx of batch 1, but .*float.onnx is float32: give"
    ):
        _checked(_config(path), tmp_path)
    graph = onnx.load(quantized / "quantized_model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(graph, tmp_path / "free.onnx")
    with pytest.raises(
        ConfigError, match=r"free.onnx: expected batch 1, found a free one. Export it with batch 1"
    ):
        _checked(_config(tmp_path / "free.onnx"), tmp_path)
    context = package / "quantized_model_qcs8550.onnx"
    with pytest.raises(ConfigError, match=r"is compiled already: give the .onnx that it was made from"):
        _checked(_config(context), tmp_path)


def test_a_batch_and_a_compiled_graph_are_refused_before_they_are_benchmarked(quantized, package, tmp_path):
    def check(path):
        config = _config(path, operation_mode="benchmarking", dataset=dataset)
        benchmarking.preflight(config, Data(), _starting_model(config))

    dataset = dict.fromkeys(("test_query_path", "test_gallery_path"), str(quantized))
    graph = onnx.load(quantized / "quantized_model.onnx")
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(graph, tmp_path / "eight.onnx")
    with pytest.raises(ConfigError, match=r"eight.onnx: expected batch 1, found 8. Export it with batch 1"):
        check(tmp_path / "eight.onnx")
    with pytest.raises(ConfigError, match=r"qcs8550.onnx is compiled already: give the .onnx that it was"):
        check(package / "quantized_model_qcs8550.onnx")
    with pytest.raises(ConfigError, match="compares on test images"):
        check(quantized / "quantized_model.onnx")


def test_a_model_whose_preprocessing_nobody_knows_is_refused(quantized, tmp_path):
    path = tmp_path / "stranger.onnx"
    shutil.copy(quantized / "quantized_model.onnx", path)
    with pytest.raises(
        ConfigError, match=r"has no manifest \(stranger.json\): put it beside the model, or state"
    ):
        _checked(_config(path), tmp_path)
    assert _checked(_config(path, preprocessing={"color_mode": "rgb"}), tmp_path) is not None


@pytest.mark.parametrize("file", ["best_model.keras", "quantized_model.tflite"])
def test_another_kind_of_file_is_refused(quantized, tmp_path, file):
    with pytest.raises(
        ConfigError, match=r"operation_mode 'deployment' takes a .onnx file, model.model_path is"
    ):
        _config(quantized / file)
    chain = _config(
        quantized / file,
        operation_mode="chain_ed",
        dataset={"test_query_path": "query", "test_gallery_path": "gallery"},
    )
    with pytest.raises(
        ConfigError, match=rf"but model.model_path is .*{file}: give the quantized_model.onnx"
    ):
        deployment.preflight(chain, Data(), _starting_model(chain))


def test_a_quantizer_that_makes_no_onnx_is_refused(quantized):
    config = _config(
        quantized / "best_model.keras",
        operation_mode="chain_qd",
        quantization={"quantizer": "TFlite_converter"},
        dataset={"quantization_path": "images"},
    )
    with pytest.raises(
        ConfigError, match=r"TFlite_converter makes a .tflite: use Onnx_quantizer or tfmot_qat"
    ):
        deployment.preflight(config, Data(), None)


def test_the_compiler_is_needed(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxruntime-qnn .* is not installed"):
        deployment.preflight(_config(quantized / "quantized_model.onnx"), Data(), None)


# --------------------------------------------------------------------------------------------------------------
# The runners

_BARE = """
import importlib.util, runpy, sys
sys.path.insert(0, {libraries!r})
strangers = [name for name in ("tensorflow", "keras", "onnx", "cv2", "onnxruntime_qnn", "src", "common", "pytest")
             if importlib.util.find_spec(name)]
assert not strangers, strangers
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _bare(package: Path, scratch: Path, *images: Path) -> list[dict]:
    """Run the package's runner in an interpreter that sees the standard library and what the README installs."""
    libraries = scratch / "libraries"
    libraries.mkdir(exist_ok=True)
    for name in ("numpy", "PIL", "onnxruntime", "flatbuffers", "packaging", "google"):
        specification = importlib.util.find_spec(name)
        for location in specification.submodule_search_locations if specification else ():
            for path in (
                Path(location),
                *Path(location).parent.glob(f"{_DISTRIBUTION.get(name, name)}.libs"),
            ):
                if not (libraries / path.name).exists():
                    (libraries / path.name).symlink_to(path)
    arguments = [str(package / "runner.py"), *map(str, images)]
    code = _BARE.format(libraries=str(libraries), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=scratch, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


_DISTRIBUTION = {"PIL": "pillow"}


def _normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_python_runner_gives_the_embedding_of_keras_in_a_bare_environment(deployed, quantized, tmp_path):
    with zipfile.ZipFile(deployed[0] / "package.zip") as archive:
        archive.extractall(tmp_path)
    photos = [_photo(tmp_path / "a.png", seed=91), _photo(tmp_path / "b.jpg", (60, 40), seed=92)]
    answers = _bare(tmp_path / "package", tmp_path, *photos)
    assert [(a["image"], a["runs_on"]) for a in answers] == [(str(p), "onnxruntime_cpu") for p in photos]
    found = np.array([answer["embedding"] for answer in answers])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    images = load_images([Sample(path, "p", 0) for path in photos], Preprocessing(**PREPROCESSING))
    with open_model(quantized / "quantized_model.onnx", threads=1) as int8:
        np.testing.assert_allclose(found[0], _normalised(int8.embed(images))[0], atol=1e-6)
    with open_model(quantized / "best_model.keras", threads=1) as network:
        cosine = (found * _normalised(network.embed(images))).sum(axis=1)
    assert (cosine > 0.995).all(), cosine


def test_the_python_runner_runs_the_context_where_the_plugin_is_and_says_so(package, tmp_path):
    photo = _photo(tmp_path / "a.png", seed=91)
    command = [sys.executable, str(package / "runner.py"), str(photo)]
    answers = []
    for extra in ([], ["--cpu"]):
        done = subprocess.run([*command, *extra], cwd=tmp_path, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout))
    assert [answer["runs_on"] for answer in answers] == ["qnn_htp_emulator", "onnxruntime_cpu"]
    assert np.dot(answers[0]["embedding"], answers[1]["embedding"]) > 0.99
    assert list(tmp_path.iterdir()) == [photo]


def test_the_python_runner_names_a_file_that_is_no_image(package, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    command = [sys.executable, str(package / "runner.py"), "--cpu", str(tmp_path / "text.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path / 'text.png'}: expected a JPEG, PNG or BMP image: cannot identify" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def runner():
    """The functions of `runner.py`."""
    return runpy.run_path(str(RUNNERS / "runner.py"), run_name="runner")


INTERPOLATIONS = (
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic",
)  # fmt: skip


def _as_data(
    interpolation: str, aspect_ratio: str, color: str = "RGB", layout: str = "NHWC", channels: int = 3
):
    return {
        "name": "images", "layout": layout, "height": 64, "width": 32, "channels": channels, "color_order": color,
        "aspect_ratio": aspect_ratio, "interpolation": interpolation, "scale": 1.0, "offset": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("aspect_ratio", ["fit", "crop", "padding"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_python_runner_prepares_images_as_training_did(runner, tmp_path, interpolation, aspect_ratio):
    sizes = ((53, 97), (20, 25), (61, 40), (32, 64))
    photos = [_photo(tmp_path / f"{width}.png", (width, height)) for width, height in sizes]
    to = Preprocessing((64, 32, 3), 1.0, 0.0, interpolation, aspect_ratio)
    images = load_images([Sample(photo, "p", 0) for photo in photos], to)
    for photo, expected in zip(photos, images, strict=True):
        with Image.open(photo) as image:
            found = runner["preprocess"](image, _as_data(interpolation, aspect_ratio))
        assert found.shape == expected.shape and found.dtype == np.float32
        gap = np.abs(found - expected)
        # TensorFlow tabulates its cubic kernel in 1,024 steps and computes in float32, so a tie may round otherwise
        assert gap.max() <= 1 and (gap > 0).mean() < 0.02


@pytest.mark.parametrize(
    ("mode", "color", "scale"), [("grayscale", "GRAY", [0.5]), ("rgba", "RGBA", [0.5, 0.25, 0.125, 0.5])]
)
def test_the_python_runner_knows_other_colours_and_the_other_layout(runner, tmp_path, mode, color, scale):
    photo, channels = _photo(tmp_path / "photo.png"), len(scale)
    preprocessing = Preprocessing((64, 32, channels), tuple(scale), 3.0, color_mode=mode)
    expected = load_images([Sample(photo, "p", 0)], preprocessing)[0]
    to = _as_data("bilinear", "fit", color, "NCHW", channels) | {"scale": scale, "offset": 3.0}
    with Image.open(photo) as image:
        found = runner["preprocess"](image, to)
    assert found.shape == (channels, 64, 32)
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=0.5)


def _ort_headers() -> Path | None:
    places = [Path(place) for place in (os.environ.get("ONNXRUNTIME_INCLUDE"),) if place]
    places += [Path(__file__).parents[3] / ".headers/usr/include/onnxruntime"]
    places += [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"), Path("/usr/include")]
    return next((place for place in places if (place / "onnxruntime_c_api.h").is_file()), None)


@pytest.fixture(scope="module")
def cpp_runner(tmp_path_factory) -> Path:
    """`runner.cpp` compiled against ONNX Runtime's header and the library of its Python package."""
    headers, compiler = _ort_headers(), shutil.which("g++")
    if headers is None or compiler is None:
        pytest.skip(
            "needs g++ and onnxruntime_c_api.h, which the Python package lacks: run `make headers`, or set "
            "ONNXRUNTIME_INCLUDE to the headers of ONNX Runtime 1.22 or newer"
        )
    import onnxruntime

    folder = tmp_path_factory.mktemp("cpp")
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    done = subprocess.run(
        [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", str(RUNNERS / "runner.cpp"), "-I", str(headers),
         "-L", str(folder), "-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", str(folder / "runner")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runner"


def _run_cpp(cpp_runner: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cpp_runner, *arguments], capture_output=True, text=True, check=False)


def test_the_cpp_runner_gives_the_embedding_of_the_python_runner(cpp_runner, package, runner, tmp_path):
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    session, output, _ = runner["open_session"](copy, True)
    photo = _photo(tmp_path / "photo.png")
    Image.open(photo).save(tmp_path / "photo.ppm")
    for interpolation in INTERPOLATIONS:
        for aspect_ratio in ("fit", "crop", "padding"):
            to = _as_data(interpolation, aspect_ratio) | {"scale": [1 / 127.5, 0.01, 0.02], "offset": -1.0}
            (copy / "preprocessing.json").write_text(json.dumps({"inputs": [to]}, indent=2))
            with Image.open(photo) as image:
                pixels = runner["preprocess"](image, to)
            expected = _normalised(session.run([output], {"images": pixels[None]})[0])[0]
            done = _run_cpp(cpp_runner, copy, tmp_path / "photo.ppm")
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout)
            assert answer["runs_on"] == "onnxruntime_cpu"
            np.testing.assert_allclose(answer["embedding"], expected, atol=1e-6)


def test_the_cpp_runner_runs_the_context_on_the_emulator(cpp_runner, package, tmp_path):
    import onnxruntime_qnn

    photo = _photo(tmp_path / "photo.png")
    Image.open(photo).save(tmp_path / "photo.ppm")
    done = _run_cpp(cpp_runner, package, tmp_path / "photo.ppm", Path(onnxruntime_qnn.get_library_path()))
    if "compiled with the headers of ONNX Runtime 1.22 or newer" in done.stderr:
        pytest.skip("the header is older than 1.22: set ONNXRUNTIME_INCLUDE to a newer one")
    assert done.returncode == 0, done.stderr
    python = subprocess.run(
        [sys.executable, str(package / "runner.py"), str(photo)], capture_output=True, text=True, check=True
    )
    answers = [json.loads(done.stdout), json.loads(python.stdout)]
    assert {answer["runs_on"] for answer in answers} == {"qnn_htp_emulator"}
    np.testing.assert_allclose(answers[0]["embedding"], answers[1]["embedding"], atol=1e-6)


def test_the_cpp_runner_answers_mistakes(cpp_runner, package, tmp_path):
    assert _run_cpp(cpp_runner).returncode == 2
    (tmp_path / "no.ppm").write_bytes(b"P6\n99999 99999\n255\nxx")
    done = _run_cpp(cpp_runner, package, tmp_path / "no.ppm")
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected a binary PPM (P6) with 8 bits a channel" in done.stderr
    assert "cannot read" in _run_cpp(cpp_runner, tmp_path, tmp_path / "no.ppm").stderr
