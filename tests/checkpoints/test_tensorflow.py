"""TensorFlow 1 checkpoints, with all that training leaves in them, or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.checkpoints import tensorflow
from tests.checkpoint_files import ARRAYS, CONFIG, assert_equal, cuts, message_of
from tests.models import tensorflow_name, write_tensorflow, write_variables


def test_ignores_what_training_leaves(tmp_path: Path) -> None:
    variables: dict[str, Any] = {"global_step": np.int64(88000), "bert/pooler/dense/kernel": np.ones((32, 32), np.float32)}
    variables["cls/predictions/output_bias"] = np.ones(60, np.float32)
    variables["cls/seq_relationship/output_weights"] = np.ones((2, 32), np.float32)
    for name, array in ARRAYS.items():
        spelled = tensorflow_name(name)
        variables[spelled] = array.T if spelled.endswith("kernel") else array
        variables[f"{spelled}/adam_m"] = variables[f"{spelled}/adam_v"] = np.full_like(variables[spelled], 7)
    write_variables(tmp_path / "model.ckpt-88000", variables)
    assert_equal(tensorflow.load(tmp_path / "model.ckpt-88000", CONFIG), ARRAYS)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_become_float32(dtype: str, tmp_path: Path) -> None:
    from tensorflow import as_dtype

    stored = {name: array.astype(as_dtype(dtype).as_numpy_dtype) for name, array in ARRAYS.items()}
    write_tensorflow(tmp_path / "model", stored)
    expected = {name: array.astype(np.float32) for name, array in stored.items()}
    assert_equal(tensorflow.load(tmp_path / "model", CONFIG), expected)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_file_cut_short(suffix: str, tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    file = tmp_path / f"model.{suffix}"
    whole = file.read_bytes()
    for size in cuts(len(whole)):
        file.write_bytes(whole[:size])
        assert "cannot be read: " in message_of(tensorflow.load, tmp_path / "model"), f"cut to {size} of {len(whole)} bytes"


def test_file_with_a_changed_byte(tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    data = tmp_path / "model.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[5000] ^= 1
    data.write_bytes(changed)
    assert "cannot be read: " in message_of(tensorflow.load, tmp_path / "model")


def test_without_its_data(tmp_path: Path) -> None:
    write_tensorflow(tmp_path / "model", ARRAYS)
    (tmp_path / "model.data-00000-of-00001").unlink()
    assert "model.data-00000-of-00001" in message_of(tensorflow.load, tmp_path / "model")
