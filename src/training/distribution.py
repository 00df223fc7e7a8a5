"""Training on more than one device by TensorFlow's strategies.

A batch is one batch, however many replicas share it. Each replica runs the network on its identities; features, logits
and labels are then collected, so that every replica computes the losses of the whole batch. The gradient of a
collective sums over the replicas, so a replica's gradient is R times its share of the gradient of the loss, with R
replicas: the mean over the replicas is the gradient that one device would have. Batch norm takes its statistics over
all replicas (`common.layers.rewrite.with_synchronized_batch_norm`).
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property
from typing import Any

import numpy as np

from common.cluster import cluster_task
from common.config import ConfigError

_LOGGER = logging.getLogger(__name__)


class WorkerLostError(RuntimeError):
    """Another process of a distributed training has ended, so this one cannot go on."""


class Distribution:
    """The replicas of a training: one device, the devices of one machine, or those of several machines.

    Attributes:
        replicas: Devices in all.
        worker: Number of this process; number 0 is the chief, which writes the results.
        workers: Processes in all, each with `replicas / workers` devices.
    """

    def __init__(self, strategy: Any = None, worker: int = 0, workers: int = 1) -> None:
        self._strategy = strategy
        self.replicas: int = 1 if strategy is None else strategy.num_replicas_in_sync
        self.worker = worker
        self.workers = workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the results."""
        return self.worker == 0

    @property
    def is_distributed(self) -> bool:
        """Whether a strategy runs the training step."""
        return self._strategy is not None

    def scope(self) -> AbstractContextManager[Any]:
        """Where the network and the optimizer are made, so that their variables live on every replica."""
        return nullcontext() if self._strategy is None else self._strategy.scope()

    def over_replicas(
        self, step: Callable[[Any, Any], Mapping[str, Any]]
    ) -> Callable[[Any, Any], dict[str, Any]]:
        """Return `step(images, labels)` of this process's part of a batch, from a step of one replica's part.

        Args:
            step: A training step that is not compiled; it is traced here.
        """
        import tensorflow as tf

        strategy, local = self._strategy, self.replicas // self.workers

        def shares(values: Any) -> Any:
            size = len(values) // local

            def share(context: Any) -> Any:
                number = context.replica_id_in_sync_group % local
                return tf.convert_to_tensor(values[number * size : (number + 1) * size])

            return strategy.experimental_distribute_values_from_function(share)

        @tf.function(jit_compile=False)
        def run(images: Any, labels: Any) -> Any:
            return strategy.run(step, (images, labels))

        def distributed(images: Any, labels: Any) -> dict[str, Any]:
            with self._naming_lost_workers():
                scalars = run(shares(images), shares(labels))
                # Reading a result waits for it; only then does a lost worker become an error.
                return {
                    name: strategy.experimental_local_results(value)[0].numpy()
                    for name, value in scalars.items()
                }

        return distributed

    def average(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each scalar over the workers, so that all of them decide alike."""
        if self.workers == 1:
            return dict(scalars)
        names = sorted(scalars)
        sums = self._sum([np.array([scalars[name] for name in names], np.float64)])[0]
        return dict(zip(names, (sums / self.replicas).tolist(), strict=True))

    def any_worker(self, condition: bool) -> bool:
        """Whether the condition holds for one of the workers at least."""
        return self.average({"": float(condition)})[""] > 0

    def from_chief(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the chief's values of these arrays, of the same shapes on all workers."""
        if self.workers == 1:
            return list(values)
        return self._sum(values, of_first=True)

    def require_same(self, what: str, value: str) -> None:
        """Check that all workers have the same value.

        Raises:
            ConfigError: they have not.
        """
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8).astype(np.float32)
        [of_chief] = self.from_chief([digest])
        if self.any_worker(not np.array_equal(of_chief, digest)):
            raise ConfigError(
                f"the {self.workers} workers of the training differ in {what}: start all of them with the same "
                "configuration and the same files"
            )

    def _sum(self, values: Sequence[np.ndarray], of_first: bool = False) -> list[np.ndarray]:
        """The sums of arrays over all replicas, or over the first one alone."""
        import tensorflow as tf

        with self._naming_lost_workers():
            results = self._compiled_sum([tf.constant(value) for value in values], of_first)
            return [self._strategy.experimental_local_results(result)[0].numpy() for result in results]

    @cached_property
    def _compiled_sum(self) -> Any:
        import tensorflow as tf

        def replica(tensors: Any, of_first: bool) -> Any:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            counts = tf.equal(number, 0) if of_first else tf.constant(True)
            parts = [tf.where(counts, tensor, tf.zeros_like(tensor)) for tensor in tensors]
            return _over_replicas(tf.distribute.ReduceOp.SUM, parts)

        return tf.function(lambda tensors, of_first: self._strategy.run(replica, (tensors, of_first)))

    @contextmanager
    def _naming_lost_workers(self) -> Iterator[None]:
        import tensorflow as tf

        lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
        try:
            yield
        except lost as error:
            if self.workers == 1:
                raise
            raise WorkerLostError(
                f"worker {self.worker} of {self.workers} cannot go on: another worker has ended or cannot be reached. "
                "The chief's last_augmented_model.keras, of the last finished epoch, can be resumed with "
                "training.resume_training: True, on any number of devices"
            ) from error


@cache
def distribution_of(kind: str) -> Distribution:
    """Return the replicas that `training.distribution` means; made once, since TensorFlow knows one cluster.

    Call it before anything asks TensorFlow for its devices: the connection to other machines is part of that.

    Args:
        kind: `none`, `mirrored` or `multi_worker`.

    Raises:
        ConfigError: `multi_worker` without a `TF_CONFIG` that describes the cluster.
    """
    if kind == "none":
        return Distribution()
    if kind == "multi_worker":
        worker, workers = cluster_task()
        import tensorflow as tf

        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), worker, workers)
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        _LOGGER.warning(
            "training.distribution: mirrored gains nothing here, there is only one device, %s",
            devices[0].name,
        )
    return Distribution(tf.distribute.MirroredStrategy([device.name for device in devices]))


def whole_batch(outputs: Mapping[str, Any], labels: Any) -> tuple[dict[str, Any], Any]:
    """Collect the outputs and labels of all replicas, in their order; what one device has is returned as it is.

    Args:
        outputs: Name to tensor (n, D) of this replica; every replica has the same n.
        labels: Integers (n,).
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return dict(outputs), labels
    names = sorted(outputs)
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before

    def spread(values: Any) -> Any:
        size = tf.shape(values)[0]
        return tf.pad(values, [[before * size, after * size], *[[0, 0]] * (len(values.shape) - 1)])

    # A sum of zero-padded parts: in TensorFlow 2.21 a graph with several `all_gather` fails on several machines.
    *collected, all_labels = _over_replicas(
        tf.distribute.ReduceOp.SUM, [*(spread(outputs[name]) for name in names), spread(labels)]
    )
    return dict(zip(names, collected, strict=True)), all_labels


def mean_over_replicas(values: Sequence[Any]) -> list[Any]:
    """Return the mean of each tensor over the replicas, None for None; what one device has is returned as it is."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(values)
    means = iter(
        _over_replicas(tf.distribute.ReduceOp.MEAN, [value for value in values if value is not None])
    )
    return [None if value is None else next(means) for value in values]


def take_whole_gradients(optimizer: Any) -> None:
    """Make an optimizer of a strategy apply gradients that were summed over the replicas before.

    Keras sums them itself, but after clipping and after looking for infinities, which both mean the whole gradient.
    """
    for part in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if part is not None:
            part._all_reduce_sum_gradients = list


def _over_replicas(operation: Any, tensors: Sequence[Any]) -> list[Any]:
    """All-reduce dense tensors of any types, in replica context; the gradient is that of the sum over replicas."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    dense = [tf.convert_to_tensor(tensor) for tensor in tensors]
    reduced: dict[int, Any] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in dense):  # TensorFlow joins tensors of one type only
        places = [place for place, tensor in enumerate(dense) if tensor.dtype == dtype]
        values = context.all_reduce(operation, [tf.identity(dense[place]) for place in places])
        reduced |= dict(zip(places, values, strict=True))
    return [reduced[place] for place in range(len(dense))]
