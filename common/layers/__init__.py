"""Layers of our own. Importing the package makes all that files hold, checkpoints too, known to Keras."""

from common.layers import (  # noqa: F401
    batch_part,
    fused_batch_norm,
    gem,
    gradient_reversal,
    matmul_gradient_conv2d,
)
