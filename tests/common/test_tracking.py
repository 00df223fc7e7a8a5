"""Where the history lies."""

import pytest

from common.tracking import flatten, store_of


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


def test_nested_parameters_become_dotted():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}, "f": 3}) == {"a.b": 1, "a.c.d": 2, "e": {}, "f": 3}
