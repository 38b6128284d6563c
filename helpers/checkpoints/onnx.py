"""ONNX files, whose initializers are the weights, with activation ranges where the export was quantization-aware."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from helpers.checkpoints import contents
from helpers.checkpoints.contents import kind_of
from helpers.checkpoints.pytorch import from_names
from helpers.checkpoints.tensors import Tensors
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
    if not path.exists():
        raise InputError(f"ONNX file {path} does not exist")
    kind_of(path, contents.ONNX, contents.UNKNOWN)  # fields may stand in any order
    try:
        graph = onnx.load(str(path), "protobuf", load_external_data=False).graph
        check_plain(graph, path)
        floats = [tensor for tensor in graph.initializer if type_of(tensor) in FLOATS]
        for tensor in floats:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                fetch(tensor, path)
        arrays = parameters(graph, {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in floats})
        dtypes = {tensor.name: type_of(tensor).lower() for tensor in graph.initializer}
        dtypes.update({tensor.values.name: "sparse" for tensor in graph.sparse_initializer})
        if not all(isinstance(name, str) for name in (*arrays, *dtypes)):
            raise ValueError("it has a name that is not UTF-8")
    except (DecodeError, OSError, ValueError, TypeError, OverflowError, MemoryError) as e:
        raise InputError(f"{path} is not a whole ONNX file: {str(e)[:200]}") from e
    if not graph.initializer:
        raise InputError(f"{path} is not a whole ONNX file: it holds no initializer")
    del graph  # which holds all numbers once more
    return from_names(Tensors(arrays, {**dict.fromkeys(arrays, "float"), **dtypes}), config, path)


def fetch(tensor: Any, path: Path) -> None:
    """Puts a tensor's numbers into it that are in a file beside the model. Raises ValueError where they are not."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    file = path.parent / name
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or not os.path.isfile(file):
        raise ValueError(f"{tensor.name} is in {ascii(name)[:60]}, which is no file beside it")
    size, offset = file.stat().st_size, int(told.get("offset", 0))
    length = int(told.get("length", size - offset))
    if min(offset, length) < 0 or offset + length > size:
        raise ValueError(f"{tensor.name} is beyond the end of {ascii(name)[:60]}")
    with open(file, "rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(length)
    tensor.data_location = tensor.DEFAULT


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
