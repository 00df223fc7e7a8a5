"""Where the history lies."""

from pathlib import Path

import pytest

from common.tracking import (
    _git_commit,
    flatten,
    log_files,
    log_metrics,
    log_texts,
    pipeline_run,
    stage_run,
    store_of,
    without_credentials,
)


def test_a_folder_is_a_database_with_artefacts_beside_it(tmp_path):
    store = store_of(str(tmp_path / "mlruns"))
    assert store.tracking_uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert store.artifact_folder == tmp_path / "mlruns" / "artifacts"
    assert store.ui_command == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlruns/mlflow.db"


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "https://host/mlflow", "sqlite:///x.db", "postgresql://h/db"]
)
def test_an_address_is_used_as_it_is(uri):
    store = store_of(uri)
    assert store.tracking_uri == uri
    assert store.artifact_folder is None


def test_credentials_are_not_shown():
    assert "secret" not in store_of("https://me:secret@host/mlflow").ui_command
    assert "secret" not in store_of("postgresql://me:secret@host/db").ui_command


def test_credentials_do_not_enter_the_history(tmp_path):
    from mlflow.tracking import MlflowClient

    store = store_of(str(tmp_path / "mlruns"))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("mlflow: {uri: 'https://me:secret@host/mlflow'}\n")
    uri = "https://me:secret@host/mlflow"
    with pipeline_run(store, "test", "run", {"mlflow": {"uri": uri}, "a": 1}, {"arm": f"mlflow.uri={uri}"}):
        log_texts([tmp_path / ".hydra", tmp_path / "absent.log"], "configuration")
    client = MlflowClient(store.tracking_uri)
    [run] = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert run.data.params == {"mlflow.uri": "https://host/mlflow", "a": "1"}
    assert run.data.tags["arm"] == "mlflow.uri=https://host/mlflow"
    copied = client.download_artifacts(run.info.run_id, "configuration/config.yaml")
    assert Path(copied).read_text() == "mlflow: {uri: 'https://host/mlflow'}\n"


def test_a_tracker_that_fails_during_a_run_does_not_end_it(tmp_path, monkeypatch, caplog):
    import mlflow

    def is_down(*args, **kwargs):
        raise mlflow.exceptions.MlflowException("no answer from https://me:secret@host/mlflow")

    (tmp_path / "note.txt").write_text("a")
    with pipeline_run(store_of(str(tmp_path / "mlruns")), "test", "run", {}):
        for name in ("log_metrics", "log_artifact", "log_text"):
            monkeypatch.setattr(mlflow, name, is_down)
        log_metrics({"loss": 1.0}, step=1)
        log_files([tmp_path / "note.txt"])
        log_texts([tmp_path / "note.txt"], "configuration")
        with monkeypatch.context() as patch, stage_run("quantization"):
            patch.setattr(mlflow.tracking.MlflowClient, "set_terminated", is_down)
        monkeypatch.setattr(mlflow, "start_run", is_down)
        with stage_run("evaluation"):
            done = True
    assert done
    told = [record.getMessage() for record in caplog.records if record.name == "common.tracking"]
    assert len(told) == 5 and told[0] == "MLflow did not take loss: no answer from https://host/mlflow"


def test_text_without_an_address_stays_as_it_is():
    text = "a@b.c wrote file:///x/y and http://host/a@b, sqlite:///runs.db"
    assert without_credentials(text) == text


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _git_commit() == "unknown"


def test_nested_parameters_become_dotted():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}, "f": 3}) == {"a.b": 1, "a.c.d": 2, "e": {}, "f": 3}
