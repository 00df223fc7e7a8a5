"""Images as files."""

from collections.abc import Sequence

import cv2
import numpy as np


def encoded(image: np.ndarray, what: str, suffix: str, parameters: Sequence[int]) -> bytes:
    """The content of an image file.

    Args:
        image: uint8, (H, W) or (H, W, 1) in grey, or (H, W, 3) in the order blue, green, red.
        what: The image, for the message.
        suffix: Of its format, such as `.png`.
        parameters: Of OpenCV's encoder, names and values in turn.

    Raises:
        RuntimeError: OpenCV could not encode it, which it says by a result that is easily missed.
    """
    ok, data = cv2.imencode(suffix, image, parameters)
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {what}, shape {image.shape}, as {suffix}")
    content: bytes = data.tobytes()
    return content
