from typing import Any

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable(package="common")
class InstanceNormalization(tf_keras.layers.Layer):
    """Group norm with a group for each channel: the same weights and outputs, in four dimensions.

    `GroupNormalization` reshapes to five, in which the HTP has no square root and refuses the graph.
    """

    def __init__(self, epsilon: float = 1e-3, center: bool = True, scale: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon, self.center, self.scale = epsilon, center, scale
        self.gamma: Any = 1.0
        self.beta: Any = 0.0

    def build(self, input_shape: Any) -> None:
        if self.scale:
            self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")
        if self.center:
            self.beta = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="beta")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        centered = inputs - tf.reduce_mean(inputs, axis=(1, 2), keepdims=True)
        variance = tf.reduce_mean(centered * centered, axis=(1, 2), keepdims=True)
        return centered * (self.gamma / tf.sqrt(variance + self.epsilon)) + self.beta

    def get_config(self) -> dict[str, Any]:
        own = {"epsilon": self.epsilon, "center": self.center, "scale": self.scale}
        return {**super().get_config(), **own}
