from typing import Any

import keras


@keras.saving.register_keras_serializable(package="src")
class LogVariances(keras.layers.Layer):
    """Hold a log variance of each loss beside features (N, D), which pass unchanged.

    They are a trained weight, `values` float32 (terms,), zeros at first, so that checkpoints hold them and the
    optimizer moves them (`src/training/uncertainty.py`).

    Args:
        terms: Number of losses.
    """

    def __init__(self, terms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.terms = terms

    def build(self, input_shape: Any) -> None:
        """Make the weight."""
        self.values = self.add_weight(
            shape=(self.terms,), initializer="zeros", dtype="float32", name="values"
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
