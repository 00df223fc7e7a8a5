from typing import Any

import keras
from keras import ops

from src.losses._means_where import means_where
from src.losses._pairs import cosine_distances, cross_modal_masks, masked_mean
from src.losses.cross_entropy import cross_entropy


def purification(
    map_logits: keras.KerasTensor,
    normed_features: keras.KerasTensor,
    labels: keras.KerasTensor,
    modalities: keras.KerasTensor,
) -> keras.KerasTensor:
    """What the purifier of IDKL has to do: masks that keep who it is, and leave less of the modality.

    The sum of three terms (Ren and Zhang, IDKL, CVPR 2024):

    - exp(max(0, entropy after - entropy before)) - 1 of the classes of a map, mean over images: a mask must not make a
      person harder to tell.
    - max(0, gap after - gap before), mean over the images of identities in both modalities, where the gap is that
      between the visible and the thermal center of an identity in the instance-normed maps: a mask must not make the
      modalities easier to tell. The gap is 1 - cosine: a Euclidean one, as published, falls with any mask below 1.
    - cross-entropy of both classifications of the maps, without which their classifier would know nobody; the published
      code trains it by the entropies alone.

    Args:
        map_logits: Of the map before and after its mask (N, 2, C), any floating type; computed in float32.
        normed_features: The pooled instance-normed map before and after its mask (N, 2, D).
        labels: Identities in [0, C), integers (N,).
        modalities: Integers (N,); images of equal numbers are of one modality, and there are two.

    Returns:
        A float32 scalar.
    """
    before, after = map_logits[:, 0], map_logits[:, 1]
    lost = ops.relu(_entropies(after) - _entropies(before))
    gaps, paired = zip(*(_gaps(normed_features[:, n], labels, modalities) for n in (0, 1)), strict=True)
    classification = cross_entropy(before, labels, 0.0) + cross_entropy(after, labels, 0.0)
    return ops.mean(ops.expm1(lost)) + masked_mean(ops.relu(gaps[1] - gaps[0]), paired[0]) + classification


def _entropies(logits: keras.KerasTensor) -> keras.KerasTensor:
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=1)
    return -ops.sum(ops.exp(log_probabilities) * log_probabilities, axis=1)


def _gaps(features: keras.KerasTensor, labels: Any, modalities: Any) -> tuple[Any, Any]:
    """1 - cosine between the own and the other center of each image's identity (N,), and where there are both."""
    features, labels = ops.cast(features, "float32"), ops.convert_to_tensor(labels)
    other, _ = cross_modal_masks(labels, modalities)
    own = ops.logical_and(ops.equal(labels[:, None], labels[None, :]), ops.logical_not(other))
    count = ops.shape(labels)[0]
    centers = ops.concatenate([means_where(features, own), means_where(features, other)], axis=0)
    return ops.diagonal(cosine_distances(centers)[:count, count:]), ops.any(other, axis=1)
