import keras
from keras import ops

from src.losses._pairs import masked_mean
from src.losses._weighted_pairs import weighted_distances


def channel_augmented_joint(
    features: keras.KerasTensor, labels: keras.KerasTensor, alpha: float = 1.0, gamma: float = 1.0
) -> keras.KerasTensor:
    """Squared weighted triplet loss of channel-augmented joint learning, mean over the anchors that have both.

    log(1 + exp(sign(d+ - d-) * gamma * (d+ - d-)^2)) with the weighted distances of `weighted_regularized_triplet`: the
    square pulls harder on what is far off and less on what is nearly right (Ye et al., Channel Augmented Joint Learning
    for Visible-Infrared Recognition, ICCV 2021, section 3.3). The published code cuts the square at 88, beyond which
    it has no gradient, to keep exp finite; softplus needs no cut.

    The batch is meant to hold three views of an identity: visible, visible with `random_channel_exchange`, and thermal.
    A batch without a valid anchor has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        alpha: Sharpness of the weights, 0 or more.
        gamma: Factor of the square, more than 0.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `alpha` or `gamma` is out of range.
    """
    if alpha < 0 or gamma <= 0:
        raise ValueError(
            f"alpha, gamma: expected 0 or more and more than 0, received alpha {alpha} and gamma {gamma}"
        )
    to_positives, to_negatives, valid = weighted_distances(features, labels, alpha)
    difference = to_positives - to_negatives
    return masked_mean(ops.softplus(gamma * difference * ops.abs(difference)), valid)
