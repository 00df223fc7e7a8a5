"""A network that learns from a memory of clusters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from common.layers.rewrite import with_fused_batch_norm
from src.adaptation.contrastive import contrastive
from src.adaptation.memory import ClusterMemory
from src.adaptation.proxies import proxies
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.preprocessing import Preprocessing
from src.models._two_stems import MODALITIES, has_two_stems, input_shapes, joined
from src.schema import Adaptation
from src.training.optimizer import optimizer_of
from src.training.teacher import follow
from src.training.validation import Routes, routes_of

Batch = Mapping[str, Mapping[str, Any]]


class Memory(NamedTuple):
    """What is remembered of one modality.

    Attributes:
        clusters: Cluster of each remembered feature, int32 (M,).
        place: Which feature each image of the target belongs to, integers (N,); -1 for noise and the other modality.
        learned: The features.
    """

    clusters: np.ndarray
    place: np.ndarray
    learned: ClusterMemory


@dataclass(frozen=True)
class Learner:
    """A network and what changes it.

    Attributes:
        network: Images to embeddings, with Keras's own batch norm: it is clustered with, and saved. With a mean teacher
            it is the teacher.
        joined: The same weights as one network that sees both modalities at once.
        trained: Its copy that is trained.
        optimizer: Of the copy.
        routes: Of the network.
        step: (images, labels, across, centroids, clusters), each by modality, to losses and embeddings (n, D).
        has_teacher: Whether each step moves the network by itself.
    """

    network: keras.Model
    joined: keras.Model
    trained: keras.Model
    optimizer: keras.optimizers.Optimizer
    routes: Routes
    step: Callable[..., tuple[dict[str, Any], Any]]
    has_teacher: bool

    def finish_round(self) -> None:
        """Take over what was learned."""
        if not self.has_teacher:
            self.joined.set_weights(self.trained.get_weights())

    def go_back(self, weights: Sequence[np.ndarray]) -> None:
        """Give network and copy the weights that `joined` once had."""
        self.joined.set_weights(weights)
        self.trained.set_weights(weights)


def learner_of(
    network: keras.Model,
    preprocessing: Preprocessing,
    section: Adaptation,
    modalities: Sequence[str],
    compiled: bool = True,
) -> Learner:
    """Make everything that learning takes.

    Args:
        network: Images to embeddings, or a dict of both modalities to a dict.
        preprocessing: Of its first input.
        section: The configuration's section.
        modalities: Of the target's images, visible ones first.
        compiled: False runs eagerly, for tests.
    """
    network.trainable = True
    whole = joined(network) if has_two_stems(network) else network
    policy = "float32" if section.mixed_precision == "none" else f"mixed_{section.mixed_precision}"
    trained = with_fused_batch_norm(whole, policy)
    optimizer = optimizer_of(section)
    teacher = None if section.mean_teacher is None else (whole, section.mean_teacher)
    step = _make_step(trained, optimizer, section, modalities, teacher)
    if compiled:
        step = _compiled(step, trained, modalities)
    return Learner(
        network, whole, trained, optimizer, routes_of(network, preprocessing), step, teacher is not None
    )


def _make_step(
    trained: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    section: Adaptation,
    modalities: Sequence[str],
    teacher: tuple[keras.Model, float] | None,
) -> Callable[..., tuple[dict[str, Any], Any]]:
    import tensorflow as tf

    variables = trained.trainable_variables
    optimizer.build(variables)

    def step(
        images: Any, labels: Any, across: Any, centroids: Any, clusters: Any
    ) -> tuple[dict[str, Any], Any]:
        with tf.GradientTape() as tape:
            embeddings = ops.cast(_embedded(trained, images, modalities), "float32")
            sizes = [ops.shape(images[name])[0] for name in modalities]
            parts = dict(zip(modalities, tf.split(embeddings, sizes), strict=True))

            def loss_of(whose: str, seen: Any, memory: str) -> Any:
                return contrastive(
                    parts[whose], seen[whose], centroids[memory], clusters[memory], section.temperature
                )

            own = sum(loss_of(name, labels, name) for name in modalities) / len(modalities)
            scalars = {"cluster_loss": own}
            total = own + sum(trained.losses, ops.zeros(()))
            if len(modalities) > 1:
                pairs = zip(modalities, reversed(modalities), strict=True)
                other = sum(loss_of(name, across, memory) for name, memory in pairs) / len(modalities)
                scalars["cross_modal_loss"] = other
                total = total + section.cross_modal_weight * other
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        if teacher is not None:
            follow(*teacher, trained)
        return {"loss": total, **scalars}, embeddings

    return step


def _embedded(network: keras.Model, images: Mapping[str, Any], modalities: Sequence[str]) -> Any:
    """Embeddings of a batch, the modalities behind one another."""
    if has_two_stems(network):
        return network({name: images[name] for name in modalities}, training=True)
    return network(ops.concatenate([images[name] for name in modalities], axis=0), training=True)


def _compiled(
    step: Callable[..., Any], trained: keras.Model, modalities: Sequence[str]
) -> Callable[..., Any]:
    """Trace once for any number of images and clusters, without XLA, which is several times slower on a CPU."""
    import tensorflow as tf

    def of_each(*shape: int | None, kind: Any = tf.int32) -> dict[str, tf.TensorSpec]:
        return {name: tf.TensorSpec(shape, kind) for name in modalities}

    shapes = input_shapes(trained)
    images = {
        name: tf.TensorSpec((None, *(shapes.get("") or shapes[name])), tf.float32) for name in modalities
    }
    centroids = of_each(None, trained.output.shape[-1], kind=tf.float32)
    signature = [images, of_each(None), of_each(None), centroids, of_each(None)]
    return tf.function(step, jit_compile=False, input_signature=signature)


def memories_of(
    features: np.ndarray,
    labels: np.ndarray,
    modalities: np.ndarray,
    cameras: np.ndarray,
    section: Adaptation,
) -> dict[str, Memory]:
    """Remember the clusters of a round, those of each modality by themselves.

    Args:
        features: (N, D).
        labels: Cluster of each image in its modality, integers (N,); -1 is noise.
        modalities: Of each image (N,).
        cameras: Of each image, integers (N,).
        section: The configuration's section.
    """
    memories = {}
    for name in (known for known in MODALITIES if (modalities == known).any()):
        own = np.where(modalities == name, labels, -1)
        place, clusters = proxies(own, cameras if section.camera_proxies else np.zeros_like(cameras))
        learned = ClusterMemory(features, place, section.momentum, section.hard)
        memories[name] = Memory(clusters.astype(np.int32), place, learned)
    return memories


def learn(
    learner: Learner,
    batches: Any,
    labels: PseudoLabels,
    memories: Mapping[str, Memory],
    advance: Callable[[int, str], None],
) -> dict[str, float]:
    """Take the steps of a round, and return the means of the losses, not finite where one was not.

    Args:
        learner: Changed in place.
        batches: Of `target_images.batches_of`.
        labels: Of all images of the target.
        memories: By modality; they follow the network.
        advance: Told after each step.
    """
    sums: dict[str, float] = {}
    count = 0
    clusters = {name: memory.clusters for name, memory in memories.items()}
    for batch in batches:
        places = {name: batch["places"][name].numpy() for name in memories}
        own, across = (
            {name: values[seen].astype(np.int32) for name, seen in places.items()}
            for values in (labels.own, labels.across)
        )
        centroids = {name: memory.learned.centroids for name, memory in memories.items()}
        scalars, embeddings = learner.step(batch["images"], own, across, centroids, clusters)
        parts = np.split(embeddings.numpy(), np.cumsum([len(seen) for seen in places.values()])[:-1])
        for part, (name, memory) in zip(parts, memories.items(), strict=True):
            memory.learned.update(part, memory.place[places[name]])
        count += 1
        for name, value in scalars.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        advance(1, f"loss {sums['loss'] / count:.3f}")
        if not np.isfinite(sums["loss"]):
            break
    return {name: value / count for name, value in sums.items()}
