"""ONNX files, whose initializers are the weights, with activation ranges where the export was quantization-aware."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers.checkpoints.pytorch import from_names
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights

FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
NARROW = re.compile(r"U?INT[248]|FLOAT[468].*")
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.onnx's newer exporter notes a node's modules, the outermost first


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads the float initializers, by their own names or by those of the modules whose parameters they are.

    Raises:
        InputError: the file is missing, is not ONNX, is quantized or was optimized; an initializer is missing or has
            another shape than `config` asks for; a range is not one positive number.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise InputError(f"ONNX file {path} is a folder", "name the file in it")
    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        check_plain(graph, path)
        tensors = {
            tensor.name: onnx.numpy_helper.to_array(tensor, str(path.parent))
            for tensor in graph.initializer
            if type_of(tensor) in FLOATS
        }
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as e:
        raise InputError(f"{path} is not a whole ONNX file: {e}") from e
    if not tensors:
        raise InputError(f"{path} is not a whole ONNX file: it holds no float initializer")
    tensors = parameters(graph, tensors)
    del graph  # which holds all numbers once more
    return from_names(tensors, config, path)


def type_of(tensor: Any) -> str:
    from onnx import TensorProto

    return TensorProto.DataType.Name(tensor.data_type)


def check_plain(graph: Any, path: Path) -> None:
    """Raises InputError where the network's tensors are not a float model's any more."""
    read = {value for node in graph.node for value in node.input}
    if any(len(tensor.dims) > 1 and tensor.name in read and NARROW.fullmatch(type_of(tensor)) for tensor in graph.initializer):
        raise InputError(f"{path} is quantized", "give the export that it was made from; {int8} quantizes it here")
    if any(node.domain == "com.microsoft" and node.op_type.endswith("Attention") for node in graph.node):
        raise InputError(f"{path} was optimized for ONNX Runtime, which merges tensors", "give the export that it was made from")


def parameters(graph: Any, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors, and those of linear layers and layer norms under PyTorch's names for them too, matrices as [out, in].

    Exporters fold constants: a matrix that they transpose loses its name, and of equal tensors all but one go.
    """
    named = dict(tensors)
    # A value → what it was before it was cast. Tools that add casts put them in any order.
    casts = {output: value for node in graph.node if node.op_type == "Cast" for value, output in zip(node.input, node.output)}
    added: dict[str, str] = {}  # a value → the constant that is added to it
    layers = []
    for node in graph.node:
        inputs = [casts.get(value, value) for value in node.input]
        first, second, third = (*inputs, "", "", "")[:3]
        output = (*node.output, "")[0]
        if node.op_type == "Identity" and first in named:
            named[output] = named[first]
        elif node.op_type == "Add":
            added.update({value: other for value, other in ((first, second), (second, first)) if other in named})
        elif node.op_type in ("MatMul", "Gemm", "LayerNormalization") and second in named:
            layers.append((node, output, second, third))
    for node, output, matrix, bias in layers:
        bias = added.get(output, "") if node.op_type == "MatMul" else bias
        module = module_of(node, bias)
        as_it_is = any(each.name == "transB" and each.i for each in node.attribute)
        named.setdefault(f"{module}.weight", named[matrix] if as_it_is else named[matrix].T)
        if bias in named:
            named.setdefault(f"{module}.bias", named[bias])
    return named


def module_of(node: Any, bias: str) -> str:
    """The name of the module that a node comes from."""
    scopes = [name for note in node.metadata_props if note.key == SCOPES for name in re.findall("'(.*?)'", note.value)]
    if len(scopes) > 2:
        return scopes[-2]
    if bias.endswith(".bias"):
        return bias[: -len(".bias")]
    return node.name.strip("/").rpartition("/")[0].replace("/", ".")  # the older exporter's /encoder/layer.0/…/MatMul
