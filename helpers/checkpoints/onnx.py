"""ONNX files whose initializers are the weights, with activation ranges where the export was quantization-aware."""

from __future__ import annotations

from pathlib import Path

from helpers.checkpoints.pytorch import from_names
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads the float initializers; the graph itself is not looked at.

    Raises:
        InputError: the file is missing or is not ONNX; an initializer is missing or has another shape than `config`
            asks for; a range is not one positive number.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto, numpy_helper

    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist")
    try:
        graph = onnx.load(str(path)).graph
        tensors = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        }
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as e:
        raise InputError(f"{path} is not a whole ONNX file: {e}") from e
    if not tensors:
        raise InputError(f"{path} is not a whole ONNX file: it holds no float initializer")
    return from_names(tensors, config, path)
