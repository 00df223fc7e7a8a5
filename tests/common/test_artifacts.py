"""Manifests and reports on disk."""

import json
from pathlib import Path

import pytest

from common.artifacts import Model, Report, Table, read_csv, whole_file, write_csv, write_json
from common.config import ConfigError


def _model(folder: Path, name: str, suffixes: tuple[str, ...], source: Model | None = None) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    files = {suffix: folder / f"{name}.{suffix}" for suffix in suffixes}
    for path in files.values():
        path.write_bytes(b"x")
    model = Model(files, "float32", (256, 128, 3), 512, {"scale": 1.0}, {"identities": 3}, source)
    model.save()
    return model


def test_a_manifest_brings_back_the_model_and_its_source_after_a_move(tmp_path):
    source = _model(tmp_path / "a" / "saved", "best_model", ("keras",))
    _model(tmp_path / "a" / "quantized", "quantized_model", ("onnx", "tflite"), source)
    (tmp_path / "a").rename(tmp_path / "b")
    loaded = Model.load(tmp_path / "b" / "quantized" / "quantized_model.onnx")
    assert loaded is not None and loaded.source is not None
    assert loaded.files["onnx"].samefile(tmp_path / "b" / "quantized" / "quantized_model.onnx")
    assert loaded.source.path.samefile(tmp_path / "b" / "saved" / "best_model.keras")
    assert loaded.input_shape == (256, 128, 3)
    assert loaded.preprocessing == {"scale": 1.0}


def test_the_file_that_is_opened_is_the_one_that_runs(tmp_path):
    _model(tmp_path, "quantized_model", ("onnx", "tflite"))
    loaded = Model.load(tmp_path / "quantized_model.tflite")
    assert loaded is not None
    assert loaded.path.name == "quantized_model.tflite"
    assert list(loaded.files) == ["tflite", "onnx"]


def test_a_file_from_elsewhere_has_no_manifest(tmp_path):
    assert Model.load(tmp_path / "foreign.onnx") is None


@pytest.mark.parametrize("text", ["{", "{}", '{"files": {"keras": "other.keras"}}'])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ConfigError, match="m.json: not a manifest of m.keras"):
        Model.load(tmp_path / "m.keras")


def test_a_report_keeps_numbers_and_tables(tmp_path):
    report = Report("evaluation", {"rank1": 0.5}, (Table("t", ("a", "b"), ((1, None),)),), notes=("n",))
    written = json.loads(report.save(tmp_path / "deep" / "metrics.json").read_text())
    assert written["metrics"] == {"rank1": 0.5}
    assert written["tables"][0]["rows"] == [[1, None]]


def test_json_is_never_half_written(tmp_path):
    path = write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        circular: dict = {}
        circular["self"] = circular
        write_json(path, circular)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "x.npz"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npz"
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("two")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and [*path.parent.iterdir()] == [path]


def test_a_table_becomes_csv_at_once_or_not_at_all(tmp_path):
    rows = [("a,b", None, 0.5), ('say "x"', 3, Path("p"))]
    path = write_csv(tmp_path / "new" / "t.csv", ("name", "count", "share"), iter(rows))
    assert path.read_text() == 'name,count,share\n"a,b",,0.5\n"say ""x""",3,p\n'

    def broken():
        yield ("a", 1, 2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_csv(path, ("other",), broken())
    assert path.read_text().startswith("name")


def test_a_table_of_a_spreadsheet_is_read_and_what_it_lacks_is_said(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("file,label\na.jpg,ann,extra\nb.jpg\n", encoding="utf-8-sig")
    assert read_csv(path, "file") == [{"file": "a.jpg", "label": "ann"}, {"file": "b.jpg", "label": ""}]
    with pytest.raises(
        ConfigError, match="labels.csv has no column who: expected file, who, .* is 'file,label'"
    ):
        read_csv(path, "file", "who")
    path.write_bytes(b"")
    with pytest.raises(
        ConfigError, match="labels.csv has no column file: expected file, .* first line is ''"
    ):
        read_csv(path, "file")
    path.write_bytes(b"file,label\n\xff,x\n")
    with pytest.raises(ConfigError, match="labels.csv cannot be read as CSV"):
        read_csv(path, "file")
