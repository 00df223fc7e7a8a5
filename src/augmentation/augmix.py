from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, choose, keep, split, whole
from src.augmentation._operations import general_operations
from src.augmentation._ranges import as_range


def augmix(
    severity: float = 3, width: int = 3, depth: int = 3, alpha: float = 1.0, change_rate: float = 1.0
) -> Augment:
    """Mix each image with a mixture of differently changed copies of it (Hendrycks et al. 2020, "AugMix").

    The consistency loss of the paper is not part of it.

    Args:
        severity: Strength of the operations, 0 to 10.
        width: Number of copies, 1 or more.
        depth: Most operations on a copy; each copy has a random number from 1 on.
        alpha: Parameter of the Dirichlet and Beta distributions that weights are drawn from, above 0.
        change_rate: Share of the images that are changed.
    """
    strength = as_range("augmix", "severity", severity, "fixed", 0, 10)[0] / 10
    copies = int(as_range("augmix", "width", width, "fixed", 1, whole=True)[0])
    steps = int(as_range("augmix", "depth", depth, "fixed", 1, whole=True)[0])
    concentration = as_range("augmix", "alpha", alpha, "fixed", 0.01)[0]
    operations = [keep, *general_operations(strength)]

    def change(images: Any, seed: Any) -> Any:
        weight_seed, mix_seed, length_seed, *seeds = split(seed, 3 + steps)
        number = tf.shape(images)[0]
        chains = tf.tile(images, (copies, 1, 1, 1))  # all copies in one batch: a third of the graph
        length = whole(chains, length_seed, (1, steps))
        for step, own in enumerate(seeds):
            choice_seed, own = split(own, 2)
            choice = whole(chains, choice_seed, (1, len(operations) - 1))
            chains = choose(operations, tf.where(step < length, choice, 0), chains, own)
        weights = _dirichlet(number, weight_seed, copies, concentration)
        mixture = tf.reduce_sum(
            weights * tf.reshape(chains, tf.concat([(copies,), tf.shape(images)], 0)), axis=0
        )
        share = _dirichlet(number, mix_seed, 2, concentration)[0]
        return (1 - share) * images + share * mixture

    return augmentation("augmix", change, change_rate, "colour")


def _dirichlet(number: Any, seed: Any, parts: int, alpha: float) -> Any:
    """Draw `parts` weights with sum 1 for each image: float (parts, N, 1, 1, 1)."""
    draws = tf.random.stateless_gamma((parts, number, 1, 1, 1), seed, alpha) + 1e-20
    return draws / tf.reduce_sum(draws, axis=0)
