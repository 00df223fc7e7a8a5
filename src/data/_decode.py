"""One file to uint8 pixels of the input size, in TensorFlow operations."""

from typing import Any

import tensorflow as tf

from src.data.preprocessing import CHANNELS, Preprocessing


def decode(path: Any, preprocessing: Preprocessing) -> Any:
    """Read, decode and resize one file.

    The result is rounded to uint8, so that training, evaluation, calibration, a cache and a device that is
    fed camera pixels all see the same values; the overshoot of cubic and Lanczos kernels is clipped.

    Args:
        path: Scalar string tensor, a JPEG, PNG or BMP file.
        preprocessing: Size, interpolation, aspect ratio and colour mode are used; the rescaling is not.

    Returns:
        uint8 tensor (height, width, channels).
    """
    height, width = preprocessing.size
    channels = CHANNELS[preprocessing.color_mode]
    image = _decode_file(tf.io.read_file(path), channels)
    if preprocessing.aspect_ratio == "crop":
        image = _crop_to_ratio(image, height, width)
    inner = (
        _inner_size(image, height, width)
        if preprocessing.aspect_ratio == "padding"
        else tf.constant((height, width))
    )
    image = tf.cond(
        tf.reduce_all(tf.shape(image)[:2] == inner),
        lambda: image,
        lambda: _resize(image, inner, preprocessing.interpolation),
    )
    if preprocessing.aspect_ratio == "padding":
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        image = tf.image.pad_to_bounding_box(image, top, left, height, width)
    return tf.ensure_shape(image, (height, width, channels))


def _decode_file(content: Any, channels: int) -> Any:
    # Three channels are what TensorFlow decodes every format to: it has no four-channel JPEG or one-channel
    # BMP.
    if channels == 4:
        return tf.cond(
            tf.io.is_jpeg(content),
            lambda: _with_alpha(tf.io.decode_jpeg(content, channels=3)),
            lambda: tf.io.decode_image(content, channels=4, expand_animations=False),
        )
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return _to_grey(image) if channels == 1 else image


def _with_alpha(image: Any) -> Any:
    opaque = tf.fill(tf.concat([tf.shape(image)[:2], [1]], axis=0), tf.constant(255, tf.uint8))
    return tf.concat([image, opaque], axis=-1)


def _to_grey(image: Any) -> Any:
    # ITU-R BT.601, as JPEG. The weights' sum is 1, so that a thermal image keeps its values: those of
    # tf.image.rgb_to_grayscale sum to 0.9999 and are truncated.
    luma = tf.tensordot(tf.cast(image, tf.float32), tf.constant((0.299, 0.587, 0.114)), 1)[..., None]
    return tf.cast(tf.round(luma), tf.uint8)


def _resize(image: Any, size: Any, interpolation: str) -> Any:
    resized = tf.image.resize(image, size, method=interpolation)
    return tf.saturate_cast(tf.round(tf.cast(resized, tf.float32)), tf.uint8)


def _crop_to_ratio(image: Any, height: int, width: int) -> Any:
    """Cut the largest centred window of the ratio height : width."""
    shape = tf.shape(image)
    rows, columns = shape[0], shape[1]
    kept_rows = tf.clip_by_value(_round_div(columns * height, width), 1, rows)
    kept_columns = tf.clip_by_value(_round_div(rows * width, height), 1, columns)
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return image[top : top + kept_rows, left : left + kept_columns]


def _inner_size(image: Any, height: int, width: int) -> Any:
    """Return the largest size of the image's own ratio inside height x width."""
    shape = tf.shape(image)
    rows, columns = shape[0], shape[1]
    inner_rows = tf.clip_by_value(_round_div(rows * width, columns), 1, height)
    inner_columns = tf.clip_by_value(_round_div(columns * height, rows), 1, width)
    return tf.stack([inner_rows, inner_columns])


def _round_div(numerator: Any, denominator: Any) -> Any:
    return (2 * numerator + denominator) // (2 * denominator)
