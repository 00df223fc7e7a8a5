import json

import pytest

from common.cluster import cluster_task
from common.config import ConfigError

ADDRESSES = ["a:1", "b:2"]


def _set(monkeypatch, cluster, kind="worker", index=0):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "expected"),
    [
        ({"worker": ADDRESSES}, "worker", 0, (0, 2)),
        ({"worker": ADDRESSES}, "worker", 1, (1, 2)),
        ({"worker": ["a:1"]}, "worker", 0, (0, 1)),
        ({"chief": ["c:3"], "worker": ADDRESSES}, "chief", 0, (0, 3)),
        ({"chief": ["c:3"], "worker": ADDRESSES}, "worker", 1, (2, 3)),
    ],
)
def test_the_chief_has_number_zero(monkeypatch, cluster, kind, index, expected):
    _set(monkeypatch, cluster, kind, index)
    assert cluster_task() == expected


@pytest.mark.parametrize("text", [None, ""])
def test_a_missing_variable_is_answered_with_an_example(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match=r'TF_CONFIG is not set; expected \{"cluster"'):
        cluster_task()


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "message"),
    [
        ({"worker": ADDRESSES}, "worker", 2, "no task worker 2"),
        ({"worker": ADDRESSES}, "worker", -1, "no task worker -1"),
        ({"worker": ADDRESSES}, "worker", "1", "no task worker 1"),
        ({"worker": ADDRESSES}, "worker", True, "no task worker True"),
        ({"worker": ADDRESSES}, "chief", 0, "no task chief 0"),
        ({"worker": ADDRESSES}, "ps", 0, "no task ps 0"),
        ({"worker": ADDRESSES, "ps": ["d:4"]}, "worker", 0, "received worker, ps"),
        ({"worker": ["a:1", "b"]}, "worker", 0, "b is no address host:port"),
        ({"worker": ["a:1", "a:1"]}, "worker", 0, "an address appears twice"),
        ({}, "worker", 0, "no task worker 0"),
        ([], "worker", 0, "AttributeError"),
        ({"worker": 3}, "worker", 0, "TypeError"),
    ],
)
def test_a_wrong_cluster_is_named(monkeypatch, cluster, kind, index, message):
    _set(monkeypatch, cluster, kind, index)
    with pytest.raises(ConfigError, match="TF_CONFIG is wrong") as error:
        cluster_task()
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"cluster": {"worker": ["a:1"]}}'])
def test_what_is_no_description_of_a_cluster_is_shown(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG is wrong") as error:
        cluster_task()
    assert str(error.value).endswith(f"received {text}")
