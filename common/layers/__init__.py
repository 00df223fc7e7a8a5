"""Layers of our own. Importing the package makes those that saved models hold known to Keras."""

from common.layers import batch_part, gem, gradient_reversal  # noqa: F401
