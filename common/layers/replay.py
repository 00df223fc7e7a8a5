"""Functional models with some layers replaced, added or left out."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

Call = Callable[[keras.Layer, tuple[Any, ...], dict[str, Any]], Any]
"""(layer, arguments, keyword arguments) -> outputs, or None where the layer is left out."""


def replay(
    model: keras.Model, tensors: Mapping[keras.KerasTensor, keras.KerasTensor], call: Call
) -> Callable[[Any], Any]:
    """Go through a functional model's calls in order, from given tensors on, and make each of them anew.

    Only what follows from the given tensors is visited. A call that has some of its inputs only is visited too, with
    None for the others; what it returns as None is unknown to the calls behind it.

    Args:
        model: Not changed; its layers may be called by `call`, which shares their weights.
        tensors: Tensors of the model to what stands for them.
        call: Makes one call.

    Returns:
        Tensor of the model to the new tensor, None where there is none.
    """
    # Tensors cannot be keys: comparing them makes another tensor.
    known = {id(old): new for old, new in tensors.items()}
    nodes = model._nodes_by_depth
    for node in (node for depth in sorted(nodes, reverse=True) for node in nodes[depth]):
        is_known = all(id(tensor) in known for tensor in node.outputs)
        if node.is_input or is_known or not any(id(tensor) in known for tensor in node.input_tensors):
            continue
        args, kwargs = node.arguments.fill_in(known)
        outputs = call(node.operation, args, kwargs)
        if outputs is not None:
            known.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
    return lambda tensor: known.get(id(tensor))
