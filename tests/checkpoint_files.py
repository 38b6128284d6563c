"""Checkpoints as the real frameworks write them, of one small model; what loading must give, and how it must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers import checkpoints
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights
from tests.models import arrays_of, random_model, small_config, tensorflow_name, write_onnx, write_tensorflow

CONFIG = small_config()
MODEL = random_model(CONFIG)
ARRAYS = arrays_of(MODEL)

# What a file has beside the model: none of it may be taken for a weight, or be asked for.
BESIDE: dict[str, np.ndarray] = {
    "bert.embeddings.position_ids": np.arange(64, dtype=np.int64)[None],
    "bert.pooler.dense.weight": np.full((32, 32), 7.0, np.float32),
    "bert.pooler.dense.bias": np.full(32, 7.0, np.float32),
    "cls.predictions.bias": np.full(60, 7.0, np.float32),
    "cls.predictions.transform.LayerNorm.weight": np.full(32, 7.0, np.float32),
    "cls.seq_relationship.weight": np.full((2, 32), 7.0, np.float32),
}

Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, torch.Tensor]


def tensors_of(arrays: Arrays, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Tensors of their own type, or floats as `dtype`."""
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def write_torch(path: Path, arrays: Arrays) -> None:
    torch.save(tensors_of(arrays), path)


def write_legacy_torch(path: Path, arrays: Arrays) -> None:
    torch.save(tensors_of(arrays), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path, arrays: Arrays) -> None:
    safetensors.torch.save_file(tensors_of(arrays), path)


class Format(NamedTuple):
    """How a file of one kind is written and spells a Hugging Face name, and which loader reads it."""

    write: Callable[[Path, Arrays], None]
    source: str
    spelled: Callable[[str], str] = str

    def load(self, path: Path, config: BertConfig) -> BertWeights:
        return checkpoints.load(self.source, path, config)


FORMATS = {
    "tensorflow": Format(write_tensorflow, "ckpt", tensorflow_name),
    "torch": Format(write_torch, "pytorch"),
    "legacy torch": Format(write_legacy_torch, "pytorch"),
    "safetensors": Format(write_safetensors, "pytorch"),
    "onnx": Format(write_onnx, "onnx"),
}


def formats(*names: str) -> pytest.MarkDecorator:
    """The test, once for each of these kinds of files."""
    return pytest.mark.parametrize("kind", [FORMATS[name] for name in names], ids=names)


def finer(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model with more digits than float32 has, as tensors of a type."""
    return tensors_of({name: a + 1e-9 * np.arange(a.size).reshape(a.shape) for name, a in ARRAYS.items()}, dtype)


def assert_equal(weights: BertWeights, expected: Arrays) -> None:
    found = weights.tensors()
    assert set(found) == set(expected)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert all(array.flags["C_CONTIGUOUS"] for array in found.values())
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []


def message_of(load: Callable[[Path, BertConfig], BertWeights], path: Path, config: BertConfig = CONFIG) -> str:
    """The message of the InputError that loading must raise; it names the file and fits one line of a terminal."""
    with pytest.raises(InputError) as caught:
        load(path, config)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    return message


def cuts(size: int) -> list[int]:
    """Lengths of a file that was cut off: within its first and last bytes, and all along it."""
    return sorted({*range(0, 300, 7), *(size * i // 20 for i in range(20)), *(size - i for i in (1, 2, 8, 30))})
