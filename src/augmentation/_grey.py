from typing import Any

import tensorflow as tf


def luma(images: Any) -> Any:
    """Return brightness as the eye sees it, ITU-R BT.601: (N, H, W, 3) -> (N, H, W, 1)."""
    return tf.tensordot(images, tf.constant((0.299, 0.587, 0.114)), 1)[..., None]
