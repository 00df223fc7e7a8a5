from typing import Literal

import keras
from keras import ops

from src.losses._divergences import nearness, symmetric_divergence
from src.losses._means_where import means_where
from src.losses._pairs import cross_modal_masks, masked_mean


def modality_structure(
    features: keras.KerasTensor,
    labels: keras.KerasTensor,
    modalities: keras.KerasTensor,
    temperature: float = 0.1,
    distance_metric: Literal["cosine", "euclidean"] = "cosine",
) -> keras.KerasTensor:
    """Triplet-graph structure alignment between modalities: who is near whom is the same in all three graphs.

    An identity has a visible and a thermal center in the batch. The graphs are the distances between visible centers,
    between thermal ones, and across. A row of a graph, softmax(-distance / temperature) over the other identities, says
    who is near; compared are visible and thermal rows, and each with its row across, by symmetric KL divergence (Ren
    and Zhang, IDKL, CVPR 2024, where nodes are images that have to stand at the same places of both
    halves of a batch; the published code leaves the minus out, so that its softmax says who is far).

    Mean over the images of identities that have both modalities, where there is another such identity; a batch without
    any has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        modalities: Integers (N,), 0 for visible images.
        temperature: In units of the distance, more than 0.
        distance_metric: `cosine` is 1 - cosine, in [0, 2]; `euclidean` does not normalize the centers.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: unknown distance, or a temperature that is not positive.
    """
    features, labels = ops.cast(features, "float32"), ops.convert_to_tensor(labels)
    is_visible = ops.equal(ops.convert_to_tensor(modalities), 0)[None, :]
    same = ops.equal(labels[:, None], labels[None, :])
    visible = means_where(features, ops.logical_and(same, is_visible))
    thermal = means_where(features, ops.logical_and(same, ops.logical_not(is_visible)))
    scores = nearness(ops.concatenate([visible, thermal], axis=0), temperature, distance_metric)
    count = ops.shape(labels)[0]
    among_visible, across = scores[:count, :count], scores[:count, count:]
    among_thermal, back = scores[count:, count:], scores[count:, :count]
    paired = ops.any(cross_modal_masks(labels, modalities)[0], axis=1)
    others = ops.logical_and(ops.logical_not(same), ops.logical_and(paired[:, None], paired[None, :]))
    divergences = (
        symmetric_divergence(among_visible, among_thermal, others)
        + symmetric_divergence(among_visible, across, others)
        + symmetric_divergence(among_thermal, back, others)
    )
    return masked_mean(divergences, ops.any(others, axis=1))
