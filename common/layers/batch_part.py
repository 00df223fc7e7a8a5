from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="common")
class BatchPart(keras.layers.Layer):
    """Undo `Concatenate(axis=0)`: return the rows that came from one of the tensors that were put behind one another.

    Input: the whole `(N, ...)`, then the tensors of the parts, in order; of these only the number of rows is used.
    Output: `(n, ...)`.

    Args:
        index: Number of the part, from 0.
    """

    def __init__(self, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def call(self, inputs: Sequence[Any]) -> Any:
        """Cut out the rows."""
        whole, *parts = inputs
        sizes = [ops.shape(part)[0] for part in parts]
        start = sum(sizes[: self.index])
        return whole[start : start + sizes[self.index]]

    def compute_output_spec(self, inputs: Sequence[Any]) -> Any:
        """The number of rows is known at run time only."""
        return keras.KerasTensor((None, *inputs[0].shape[1:]), inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "index": self.index}
