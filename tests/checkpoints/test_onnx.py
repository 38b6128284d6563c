"""ONNX files: numbers of any kind, beside the graph or in a file of their own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from helpers.checkpoints import onnx as loader
from tests.checkpoint_files import ARRAYS, BESIDE, CONFIG, Tensors, assert_equal, finer, message_of, tensors_of
from tests.models import write_onnx


def initializer(name: str, tensor: torch.Tensor) -> TensorProto:
    kinds = {
        torch.float64: TensorProto.DOUBLE,
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.int64: TensorProto.INT64,
        torch.int8: TensorProto.INT8,
    }
    bits = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
    return TensorProto(name=name, data_type=kinds[tensor.dtype], dims=tensor.shape, raw_data=bits.numpy().tobytes())


def onnx_model(initializers: Iterable[TensorProto]) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "bert", [], [], list(initializers)))


def save(tensors: Tensors, path: Path) -> None:
    onnx.save(onnx_model(initializer(name, tensor) for name, tensor in tensors.items()), str(path))


def save_external(tensors: Tensors, path: Path) -> None:
    model = onnx_model(initializer(name, tensor) for name, tensor in tensors.items())
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def save_float_data(tensors: Tensors, path: Path) -> None:
    """An ONNX file that keeps its numbers as numbers, not as bytes."""
    made = [onnx.helper.make_tensor(name, TensorProto.FLOAT, t.shape, t.flatten().tolist()) for name, t in tensors.items()]
    assert len(made[0].float_data) == 60 * 32
    onnx.save(onnx_model(made), str(path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("save", [save, save_external], ids=["onnx", "external onnx"])
def test_any_float_dtype_becomes_float32(save: Callable[[Tensors, Path], Any], dtype: torch.dtype, tmp_path: Path) -> None:
    stored = finer(dtype)
    save({**stored, **tensors_of(BESIDE, dtype)}, tmp_path / "model")
    assert_equal(loader.load(tmp_path / "model", CONFIG), {name: tensor.float().numpy() for name, tensor in stored.items()})


def test_numbers_that_are_not_bytes(tmp_path: Path) -> None:
    save_float_data(tensors_of(ARRAYS), tmp_path / "model.onnx")
    assert_equal(loader.load(tmp_path / "model.onnx", CONFIG), ARRAYS)


@pytest.mark.parametrize("quantizer", ["matmul_q", "matmul_k", "matmul_v", "matmul_a"])
def test_odd_range_is_spelled_as_in_the_file(quantizer: str, tmp_path: Path) -> None:
    name = f"bert.encoder.layer.1.attention.self.{quantizer}_input_quantizer._amax"
    write_onnx(tmp_path / "model.onnx", {**ARRAYS, name: np.array(-1, np.float32)})
    assert f"range {name} must be" in message_of(loader.load, tmp_path / "model.onnx")


@pytest.mark.parametrize("size", [None, 0, 100, 40000, 76679])
def test_without_all_its_external_data(size: int | None, tmp_path: Path) -> None:
    save_external(tensors_of(ARRAYS), tmp_path / "model.onnx")
    data = tmp_path / "model.onnx.data"
    whole = data.read_bytes()
    assert len(whole) == 76680
    data.unlink() if size is None else data.write_bytes(whole[:size])
    assert "is not a whole ONNX file" in message_of(loader.load, tmp_path / "model.onnx")


def test_a_tensor_with_too_few_bytes(tmp_path: Path) -> None:
    initializers = [initializer(name, tensor) for name, tensor in tensors_of(ARRAYS).items()]
    initializers[3].raw_data = initializers[3].raw_data[:-4]
    onnx.save(onnx_model(initializers), str(tmp_path / "model.onnx"))
    assert "is not a whole ONNX file" in message_of(loader.load, tmp_path / "model.onnx")
