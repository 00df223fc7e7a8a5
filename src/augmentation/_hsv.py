from typing import Any

import tensorflow as tf


def shift_hsv(images: Any, hue: Any, saturation: Any, value: Any) -> Any:
    """Add to hue (a full circle is 1), saturation and value (both in [0, 1]); shifts are (N, 1, 1, 1).

    Hue goes round, saturation and value are cut.
    """
    h, s, v = tf.split(tf.image.rgb_to_hsv(images / 255), 3, axis=-1)
    h = tf.math.floormod(h + hue, 1.0)
    s, v = (tf.clip_by_value(x, 0.0, 1.0) for x in (s + saturation, v + value))
    return 255 * tf.image.hsv_to_rgb(tf.concat([h, s, v], axis=-1))
