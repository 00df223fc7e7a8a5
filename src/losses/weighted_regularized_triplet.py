import keras
from keras import ops

from src.losses._pairs import masked_mean
from src.losses._weighted_pairs import weighted_distances


def weighted_regularized_triplet(features: keras.KerasTensor, labels: keras.KerasTensor) -> keras.KerasTensor:
    """Weighted regularized triplet loss, log(1 + exp(d+ - d-)), mean over the anchors that have both.

    d+ and d- are the means of an anchor's distances to its positives and negatives, weighted by softmax(d) and
    softmax(-d): hard pairs count most, no pair is left out, and there is no margin (Ye et al., Deep Learning for Person
    Re-identification: A Survey and Outlook, 2021, equations 8 and 9). Distances are Euclidean and not normalized.

    In training on two modalities the batch holds both, and so do the pairs. A batch without a valid anchor has zero
    loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).

    Returns:
        A float32 scalar.
    """
    to_positives, to_negatives, valid = weighted_distances(features, labels)
    return masked_mean(ops.softplus(to_positives - to_negatives), valid)
