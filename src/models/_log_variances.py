from typing import Any

import keras
from keras import ops

_LIMIT = 4.0


@keras.saving.register_keras_serializable(package="src")
class LogVariances(keras.layers.Layer):
    """Hold a log variance of each loss beside features (N, D), which pass unchanged.

    They are a trained weight, `values` float32 (terms,), zeros at first, so that checkpoints hold them and the
    optimizer moves them (`src/training/uncertainty.py`), within -4 and 4: a triplet loss that has reached 0 would lower
    its own without end.

    Args:
        terms: Number of losses.
    """

    def __init__(self, terms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.terms = terms

    def build(self, input_shape: Any) -> None:
        """Make the weight."""
        self.values = self.add_weight(
            shape=(self.terms,),
            initializer="zeros",
            dtype="float32",
            name="values",
            constraint=_within_limits,
        )

    def call(self, inputs: Any) -> Any:
        """Return the features as they are."""
        return inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        """As the input."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "terms": self.terms}


def _within_limits(values: Any) -> Any:
    return ops.clip(values, -_LIMIT, _LIMIT)
