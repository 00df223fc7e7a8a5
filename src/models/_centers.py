from typing import Any

import keras


@keras.saving.register_keras_serializable(package="src")
class Centers(keras.layers.Layer):
    """Hold a center of each identity beside features (N, D), which pass unchanged.

    The centers are a weight, `centers` float32 (C, D), so that checkpoints hold them; no gradient moves them, the
    training step does (`src/losses/_centers.py`).

    Args:
        num_identities: C.
    """

    def __init__(self, num_identities: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_identities = num_identities

    def build(self, input_shape: Any) -> None:
        """Make the centers, zeros."""
        self.centers = self.add_weight(
            shape=(self.num_identities, input_shape[-1]),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            name="centers",
            aggregation="only_first_replica",  # every replica computes those of the whole batch
        )

    def call(self, inputs: Any) -> Any:
        """Return the features as they are."""
        return inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        """As the input."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "num_identities": self.num_identities}
