"""Reading and editing an ONNX graph by tensor name."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class OnnxGraph:
    """Index of one graph. `nodes` is edited freely and need not stay sorted: `finish` sorts and writes back."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in [n for n in self.nodes if n.op_type == "Constant"]:
            self.constants[node.output[0]] = numpy_helper.to_array(attribute(node, "value"))
            self.nodes.remove(node)
        self._names: Counter[str] = Counter()

    @property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {output.name for output in self.model.graph.output}

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Map each tensor to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Map each tensor to the nodes that read it."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return readers

    def fresh(self, base: str) -> str:
        """Return a tensor name that starts with `base` and was not given before."""
        self._names[base] += 1
        count = self._names[base]
        return base if count == 1 and not self._is_taken(base) else f"{base}__{count}"

    def _is_taken(self, name: str) -> bool:
        return name in self.constants or any(name in node.output or name in node.input for node in self.nodes)

    def constant(self, base: str, value: np.ndarray) -> str:
        """Add an initializer and return its name."""
        name = self.fresh(base)
        self.constants[name] = value
        return name

    def redirect(self, old: str, new: str, readers: Iterable[onnx.NodeProto] | None = None) -> None:
        """Let `readers` (default: every node) read `new` where they read `old`."""
        for node in self.nodes if readers is None else readers:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def finish(self) -> onnx.ModelProto:
        """Drop what nothing reads, sort the nodes, and return a checked model."""
        self._drop_unused()
        ordered, known = [], {*self.constants, *(i.name for i in self.model.graph.input), ""}
        pending = self.nodes
        while pending:
            ready = [node for node in pending if known.issuperset(node.input)]
            if not ready:
                raise ValueError(f"no node makes the inputs of: {', '.join(n.name for n in pending[:5])}")
            ordered += ready
            known.update(name for node in ready for name in node.output)
            done = {id(node) for node in ready}
            pending = [node for node in pending if id(node) not in done]
        graph = self.model.graph
        used = {name for node in ordered for name in node.input} - {
            n for node in ordered for n in node.output
        }
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(ordered)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in used
        )
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def _drop_unused(self) -> None:
        while True:
            used = {name for node in self.nodes for name in node.input} | self.outputs
            kept = [node for node in self.nodes if used.intersection(node.output)]
            if len(kept) == len(self.nodes):
                return
            self.nodes = kept


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default
