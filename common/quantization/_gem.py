from typing import Any

import tf_keras

from common.layers.gem import SMALLEST, generalized_mean


@tf_keras.utils.register_keras_serializable(package="common")
class GeM(tf_keras.layers.Layer):
    """`common.layers.gem.GeM` in tf_keras: the same arguments, weights and outputs."""

    def __init__(
        self,
        p: float = 3.0,
        learned: bool = False,
        keepdims: bool = False,
        smallest: float = SMALLEST,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.initial_p, self.learned, self.keepdims, self.smallest = p, learned, keepdims, smallest
        self.p: Any = p

    def build(self, input_shape: Any) -> None:
        if self.learned:
            start = tf_keras.initializers.Constant(self.initial_p)
            self.p = self.add_weight(shape=(), initializer=start, name="p")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return generalized_mean(inputs, self.p, self.keepdims, self.smallest)

    def get_config(self) -> dict[str, Any]:
        own = {"p": self.initial_p, "learned": self.learned, "keepdims": self.keepdims}
        return {**super().get_config(), **own, "smallest": self.smallest}
