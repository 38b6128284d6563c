"""An ONNX model under construction.

Most of it is a checkpoint's weights, so its initializers are serialized as they come, once, into what becomes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from helpers.errors import InputError

OPSET = 20  # the first with Gelu; onnxruntime 1.17 and later run it
LIMIT = 2**31 - 1  # bytes of an ONNX file


class Model:
    """Nodes, constants, inputs and outputs; values go by name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._names: dict[str, str] = {}  # of constants → of the initializer that has their values
        self._stored: dict[tuple[Any, ...], list[tuple[str, int]]] = {}  # what begins alike → initializers and where they lie
        self._initializers = bytearray()

    def model(self, metadata: dict[str, str], otherwise: str = "add {int8}") -> bytearray:
        """The finished model, serialized, with `metadata` in its properties.

        Raises:
            InputError: no file can hold it; `otherwise` says what to do then.
        """
        graph = helper.make_graph(self._nodes, "bert", self._inputs, self._outputs).SerializeToString()
        # IR version 9 came with opset 20; a higher one would shut out runtimes that know all that the graph uses.
        shell = helper.make_model(onnx.GraphProto(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        shell.ClearField("graph")
        helper.set_model_props(shell, metadata)
        size = len(graph) + len(self._initializers)
        head = shell.SerializeToString() + field_head(onnx.ModelProto, "graph", size) + graph
        if len(head) + len(self._initializers) > LIMIT:
            raise InputError(f"this model is {size / 2**30:.1f} GiB large, and an ONNX file holds at most 2 GiB", otherwise)
        model, self._initializers = self._initializers, bytearray()
        model[:0] = head
        return model

    def _constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """An initializer, or the one that has the same values already, as layers that share their weights have."""
        if name in self._names:
            return self._names[name]
        array: np.ndarray = np.asarray(value, dtype, order="C")
        data = array.reshape(-1).view(np.uint8).data
        alike = self._stored.setdefault((array.shape, array.dtype, bytes(data[:64])), [])
        for known, at in alike:
            if memoryview(self._initializers)[at : at + len(data)] == data:
                return self._names.setdefault(name, known)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(dims=array.shape, data_type=kind, name=name).SerializeToString()
        tensor += field_head(TensorProto, "raw_data", len(data))
        self._initializers += field_head(onnx.GraphProto, "initializer", len(tensor) + len(data)) + tensor
        alike.append((name, len(self._initializers)))
        self._initializers += data
        return self._names.setdefault(name, name)

    def _node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _once(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node that several calls need."""
        if all(node.name != name for node in self._nodes):
            self._node(op, inputs, name, **attributes)
        return name

    def _input(self, name: str, dims: Sequence[str]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, dims))

    def _output(self, name: str, dims: Sequence[str | int | None]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))


def field_head(message: Any, name: str, size: int) -> bytes:
    """What comes before a field of `size` bytes in a serialized message (https://protobuf.dev/programming-guides/encoding)."""
    head = bytearray()
    for number in (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, size):
        while number > 127:
            head.append(number & 127 | 128)
            number >>= 7
        head.append(number)
    return bytes(head)
