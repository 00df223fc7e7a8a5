"""What a network is worth on validation images: as a classifier of known people, or by retrieval of unknown ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from src.data.pipeline import evaluation_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.metrics.retrieval import retrieval_metrics
from src.models._head import embedding_model
from src.models._two_stems import MODALITIES, has_two_stems

Embedding = Callable[[Any], np.ndarray]
"""Rescaled images (n, H, W, C) to embeddings (n, D)."""


class Route(NamedTuple):
    """How images become embeddings."""

    embed: Embedding
    preprocessing: Preprocessing


Routes = Mapping[str, Route]
"""Modality to its route; `""` stands for every modality."""


def classification(
    step: Callable[[Any, Any], Mapping[str, Any]], batches: Iterable[np.ndarray], labels: np.ndarray
) -> dict[str, float]:
    """Average the scalars of a validation step over all images, each once.

    Args:
        step: (images, labels) to scalars.
        batches: Images in order, (n, H, W, C) each; all but the last of one size.
        labels: Label of every image, (N,).

    Returns:
        `val_loss`, `val_accuracy` and so on.
    """
    sums: dict[str, float] = {}
    start = 0
    for images in batches:
        part = labels[start : start + len(images)]
        for name, value in step(images, part).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(part)
        start += len(images)
    return {f"val_{name}": value / len(labels) for name, value in sums.items()}


def retrieval(
    embed: Callable[[Sequence[Sample]], np.ndarray], query: Sequence[Sample], gallery: Sequence[Sample]
) -> dict[str, float]:
    """Score retrieval of validation identities: `val_rank1` and `val_mAP` in [0, 1].

    With both modalities also `val_thermal_to_visible_rank1` and `_mAP`: all thermal images search all visible ones, by
    the same protocol.
    """
    samples = [*query, *gallery]
    embeddings = embed(samples)
    metrics = score(embeddings[: len(query)], embeddings[len(query) :], query, gallery)
    values = {"val_rank1": float(metrics.cmc[0]), "val_mAP": float(metrics.mAP)}
    sides = {name: [n for n, s in enumerate(samples) if s.modality == name] for name in MODALITIES}
    if in_both_modalities(samples):
        parts = [(embeddings[numbers], [samples[n] for n in numbers]) for numbers in sides.values()]
        (shown, shown_samples), (asking, asking_samples) = parts
        across = score(asking, shown, asking_samples, shown_samples)
        values["val_thermal_to_visible_rank1"] = float(across.cmc[0])
        values["val_thermal_to_visible_mAP"] = float(across.mAP)
    return values


def in_both_modalities(samples: Sequence[Sample]) -> bool:
    """Whether somebody is seen in both modalities."""
    seen = ({sample.identity for sample in samples if sample.modality == name} for name in MODALITIES)
    return bool(set.intersection(*seen))


def score(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    query: Sequence[Sample],
    gallery: Sequence[Sample],
) -> Any:
    """Retrieval metrics of embeddings in the order of the samples, by cosine distance and the `default_protocol`.

    Args:
        query_embeddings: (Q, D).
        gallery_embeddings: (G, D).
        query: Q samples.
        gallery: G samples.

    Returns:
        What `retrieval_metrics` does.
    """
    return retrieval_metrics(
        query_embeddings,
        gallery_embeddings,
        np.array([sample.identity for sample in query]),
        np.array([sample.identity for sample in gallery]),
        np.array([sample.place for sample in query]),
        np.array([sample.place for sample in gallery]),
        protocol=default_protocol(sample.place for sample in (*query, *gallery)),
    )


def default_protocol(places: Iterable[int]) -> str:
    """`market1501` where images are of more than one place and all places are known (not 0), else `no_camera`."""
    found = set(places)
    return "market1501" if len(found) > 1 and 0 not in found else "no_camera"


def split_query_gallery(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Divide held-out identities: the first image of each identity in each camera is a query, the rest gallery."""
    seen: set[tuple[int | str, int]] = set()
    query: list[Sample] = []
    gallery: list[Sample] = []
    for sample in samples:
        key = (sample.identity, sample.camera)
        (gallery if key in seen else query).append(sample)
        seen.add(key)
    return query, gallery


def by_modality(network: keras.Model) -> dict[str, keras.Model]:
    """Divide a training network or an embedding model by its inputs; the parts share its weights.

    Returns:
        Modality to a model of rescaled images (N, H, W, C); `{"": network}` where there is one input for all.
    """
    if not has_two_stems(network):
        return {"": network}
    is_divided = isinstance(network.output, dict) and set(network.output) == set(network.input)
    parts = network if is_divided else embedding_model(network)
    return {name: keras.Model(parts.input[name], parts.output[name]) for name in parts.input}


def routes_of(network: keras.Model, preprocessing: Preprocessing) -> Routes:
    """The routes of a training network or an embedding model.

    Args:
        network: With one input, or one for each modality.
        preprocessing: Of one input; the others have their own shape and colour mode, and the rest in common.
    """
    return {
        name: Route(embedder(part), preprocessing.of_shape(part.input_shape[1:]))
        for name, part in by_modality(network).items()
    }


def embed_samples(
    routes: Routes,
    samples: Sequence[Sample],
    batch_size: int = 64,
    advance: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """Embed every sample through the route of its modality.

    Args:
        routes: At least one.
        samples: N samples.
        batch_size: Images at once.
        advance: Told the number of images after each batch.

    Returns:
        (N, D) float32 in the order of the samples, not normalised.

    Raises:
        ValueError: a sample has no route.
    """
    order: list[int] = []
    parts: list[np.ndarray] = []
    for modality, (embed, preprocessing) in routes.items():
        own = [index for index, sample in enumerate(samples) if modality in ("", sample.modality)]
        order += own
        for images in evaluation_batches([samples[i] for i in own], preprocessing, batch_size) if own else ():
            parts.append(embed(images.numpy()))
            advance(len(parts[-1]))
    if len(order) < len(samples):
        stranger = samples[min(set(range(len(samples))) - set(order))]
        raise ValueError(
            f"{stranger.path} is {stranger.modality}, the model takes {' and '.join(routes)} images"
        )
    if not samples:
        return np.empty((0, 0), np.float32)
    embeddings = np.empty((len(samples), parts[0].shape[1]), np.float32)
    embeddings[order] = np.concatenate(parts)
    return embeddings


def embedder(network: keras.Model) -> Embedding:
    """Return images -> embeddings (N, D) of a network with one input, as one traced function.

    Args:
        network: A training network or an embedding model; for several inputs see `by_modality`.
    """
    import tensorflow as tf

    @tf.function(
        jit_compile=False, input_signature=[tf.TensorSpec((None, *network.input_shape[1:]), tf.float32)]
    )
    def embed(images: Any) -> Any:
        output = network(images, training=False)
        return output["embedding"] if isinstance(output, dict) else output

    return lambda images: embed(images).numpy()
