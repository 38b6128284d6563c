"""The precisions: their formats, what flags choose, and the scale of 8 bits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.precision import FLOAT16, FLOAT32, INT8, PRECISIONS, choose
from helpers.sites import Part

FOUR = {Part.QKV, Part.ATTENTION_OUTPUT, Part.INTERMEDIATE, Part.OUTPUT}


@pytest.mark.parametrize(
    ("found", "name", "dtype", "largest"),
    [
        (FLOAT32, "float32", np.float32, 3.4028234663852886e38),
        (FLOAT16, "float16", np.float16, 65504.0),
        (INT8, "int8", np.int8, 127.0),
    ],
)
def test_formats(found: object, name: str, dtype: type, largest: float) -> None:
    assert found == (name, dtype, largest)
    assert np.dtype(dtype).name == name


def test_rows() -> None:
    rows = {name: (row.name, row.base, row.eight_bit, set(row.parts)) for name, row in PRECISIONS.items()}
    assert rows == {
        "float32": ("float32", FLOAT32, None, set()),
        "float16": ("float16", FLOAT16, None, set()),
        "int8": ("int8", FLOAT32, INT8, FOUR | {Part.ACTIVATION}),
    }


@pytest.mark.parametrize("flags", list(product([False, True], repeat=5)), ids=lambda flags: "".join(map(str, map(int, flags))))
def test_choose(flags: tuple[bool, ...]) -> None:
    fp16, int8, attention, norms, output_in_base = flags
    precision = choose(fp16, int8, attention, norms, output_in_base)
    assert precision.base == (FLOAT16 if fp16 else FLOAT32)
    if not int8:  # what is said of int8 then says nothing
        assert precision == PRECISIONS["float16" if fp16 else "float32"]
        return
    assert (precision.name, precision.eight_bit) == ("int8", INT8)
    parts = FOUR | {Part.ACTIVATION}
    if attention:
        parts |= {Part.ATTENTION}
    if norms:
        parts |= {Part.ATTENTION_NORM, Part.OUTPUT_NORM}
    if output_in_base:  # and so is what it reads
        parts -= {Part.OUTPUT, Part.ACTIVATION}
    assert precision.parts == parts
    assert PRECISIONS["int8"].parts == FOUR | {Part.ACTIVATION}  # the row stays as it is


def test_parts_are_added_and_taken_away() -> None:
    row = PRECISIONS["int8"]
    assert row.also(Part.SUM, Part.QKV).parts == row.parts | {Part.SUM}
    assert row.without(Part.QKV, Part.SUM).parts == row.parts - {Part.QKV}
    assert row.also(Part.SUM).without(Part.SUM) == row.also() == row.without() == row


@given(amax=st.floats(1e-6, 1e6))
def test_scale(amax: float) -> None:
    """The range's ends are the ends of 8 bits, and zero is zero."""
    scale = PRECISIONS["int8"].scale(amax)
    assert np.rint(np.array([amax, -amax, 0, amax / 127]) / scale).tolist() == [127, -127, 0, 1]


def test_scale_of_several_ranges() -> None:
    scales = PRECISIONS["int8"].scale(np.array([127, 254, 63.5], np.float32))
    assert (scales.dtype, scales.tolist()) == (np.float32, [1, 2, 0.5])


def test_there_is_no_scale_without_8_bits() -> None:
    with pytest.raises(AssertionError):
        PRECISIONS["float16"].scale(1.0)
