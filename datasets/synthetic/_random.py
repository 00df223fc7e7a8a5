"""Random numbers that depend on what they are for, not on what was drawn before."""

import numpy as np


def rng_of(population: int, *key: int) -> np.random.Generator:
    """Return the random numbers of a key, of which each population has its own; population 0 is the key alone."""
    return np.random.default_rng(np.random.SeedSequence([*key, population] if population else key))
