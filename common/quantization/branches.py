from typing import TypeVar

import keras
import tf_keras

AnyModel = TypeVar("AnyModel", keras.Model, tf_keras.Model)


def branches(model: AnyModel) -> dict[str, AnyModel]:
    """Divide a model with several inputs, such as visible and thermal images, into one model for each.

    A chip gets one graph per input, all from one set of weights: layers are shared with `model`, not copied.

    Args:
        model: functional; several inputs and outputs are dicts with the same keys, and no output depends on the input
            of another key.

    Returns:
        Input name to model; `{"": model}` where there is one input.

    Raises:
        ValueError: the inputs or outputs have other names, or depend on one another.
    """
    inputs, outputs = model.input, model.output
    if not isinstance(inputs, dict):
        if len(model.inputs) == len(model.outputs) == 1:
            return {"": model}
        inputs = {tensor.name: tensor for tensor in model.inputs}
    if not isinstance(outputs, dict) or set(outputs) != set(inputs):
        names = sorted(outputs) if isinstance(outputs, dict) else f"{len(model.outputs)} without names"
        raise ValueError(
            f"model '{model.name}' with the inputs {sorted(inputs)}: expected a dict of outputs with the same names, "
            f"received {names}"
        )
    functional = keras.Model if isinstance(model, keras.Model) else tf_keras.Model
    try:
        return {
            name: functional(inputs[name], outputs[name], name=f"{model.name}_{name}")
            for name in sorted(inputs)
        }
    except ValueError as error:
        raise ValueError(
            f"model '{model.name}': an output of {sorted(outputs)} depends on the input of another"
        ) from error
