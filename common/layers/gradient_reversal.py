from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="common")
class GradientReversal(keras.layers.Layer):
    """Pass values on unchanged and gradients with the opposite sign.

    What follows learns to tell something of its input, and what comes before learns that it cannot be told (Ganin and
    Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015, section 3).

    Input and output: any shape, any floating type.
    """

    def call(self, inputs: Any) -> Any:
        """Return the inputs; 2x - x is exact in floating point."""
        return 2.0 * ops.stop_gradient(inputs) - inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        """As the input."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)
