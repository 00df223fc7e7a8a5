"""Which of several processes this one is, as TensorFlow's `TF_CONFIG` says it."""

import json
import os

from common.config import ConfigError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}, '
    "with another index in each process"
)
_JOBS = ("chief", "worker")


def cluster_task() -> tuple[int, int]:
    """Return the number of this process, from 0 (the chief), and how many there are, as `TF_CONFIG` says.

    Raises:
        ConfigError: `TF_CONFIG` is not set, is not JSON, or does not describe a cluster and a task of it.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ConfigError(f"the environment variable TF_CONFIG is not set; expected {_EXAMPLE}")
    try:
        content = json.loads(text)
        cluster, kind, index = content["cluster"], content["task"]["type"], content["task"]["index"]
        addresses = {job: list(cluster.get(job, [])) for job in _JOBS}
        if set(cluster) - set(_JOBS):
            raise ValueError(f"cluster may have {' and '.join(_JOBS)}, received {', '.join(cluster)}")
        if kind not in _JOBS or isinstance(index, bool) or index not in range(len(addresses[kind])):
            raise ValueError(f"there is no task {kind} {index} in the cluster {dict(cluster)}")
        everyone = [str(address) for job in _JOBS for address in addresses[job]]
        if wrong := [address for address in everyone if not address.rpartition(":")[2].isdigit()]:
            raise ValueError(f"{wrong[0]} is no address host:port")
        if len(set(everyone)) < len(everyone):
            raise ValueError("an address appears twice")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the environment variable TF_CONFIG is wrong ({type(error).__name__}: {error}); expected {_EXAMPLE}, "
            f"received {text}"
        ) from error
    return (index if kind == "chief" else len(addresses["chief"]) + index), len(everyone)
