"""ONNX models as they are written: against what the onnx package reads, and equal constants once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from helpers.backends.onnxruntime import model
from helpers.backends.onnxruntime.model import OPSET, Model, field_head
from helpers.commands.flags import FLAGS
from helpers.errors import InputError

CONSTANTS: dict[str, np.ndarray] = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "scalar": np.array(2.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
    "whole": np.array([1 << 40, -1]),
    "bytes": np.arange(-128, 128, dtype=np.int8),
    "large": np.random.default_rng(0).standard_normal((70, 70)).astype(np.float32),
}


def filled(constants: dict[str, np.ndarray]) -> Model:
    """A model with these constants, one of which it gives."""
    made = Model()
    names = [made._constant(name, array, array.dtype.type) for name, array in constants.items()]
    made._input("input_ids", ["batch"])
    made._node("Identity", [names[0]], "out")
    made._output("out", [None] * constants[next(iter(constants))].ndim)
    return made


def parsed(blob: Any) -> Any:
    return onnx.load_from_string(bytes(blob))


def test_what_is_written_is_what_onnx_reads() -> None:
    found = parsed(filled(CONSTANTS).model({"profiles": "[[1, 2]]", "ü": "…"}))
    onnx.checker.check_model(found)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert arrays.keys() == CONSTANTS.keys()
    for name, array in CONSTANTS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert {each.key: each.value for each in found.metadata_props} == {"profiles": "[[1, 2]]", "ü": "…"}
    assert [(each.domain, each.version) for each in found.opset_import] == [("", OPSET)]
    assert found.ir_version == 9


def test_equal_constants_are_stored_once() -> None:
    """And only equal ones: not those that begin alike, nor the same bytes of another shape or kind."""
    first = np.arange(100, dtype=np.float32)
    ends_otherwise = np.where(first == 99, 0, first).astype(np.float32)
    others = (ends_otherwise, first.reshape(10, 10), first.view(np.int32))
    made = Model()
    names = [made._constant(f"c{i}", array, array.dtype.type) for i, array in enumerate((first, *others, first.copy()))]
    assert names == ["c0", "c1", "c2", "c3", "c0"]
    assert made._constant("c4", others[0]) == "c0"  # a name has the values that it had first
    made._output("c0", [100])
    assert [tensor.name for tensor in parsed(made.model({})).graph.initializer] == names[:4]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 300_000])
def test_the_head_of_a_field(size: int) -> None:
    """As protobuf itself writes it."""
    assert field_head(TensorProto, "raw_data", size) + bytes(size) == TensorProto(raw_data=bytes(size)).SerializeToString()


def test_a_model_that_no_file_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(filled(CONSTANTS).model({}))
    monkeypatch.setattr(model, "LIMIT", size)
    assert len(filled(CONSTANTS).model({})) == size
    monkeypatch.setattr(model, "LIMIT", size - 1)
    with pytest.raises(InputError) as error:
        filled(CONSTANTS).model({})
    assert error.value.told(FLAGS) == "this model is 0.0 GiB large, and an ONNX file holds at most 2 GiB: add --int8"
