"""The shapes that TensorRT is told are those that a layout's batches have, and what it tells of its output's shape."""

from __future__ import annotations

import pytest

from helpers.backends.tensorrt.build import profile_shapes
from helpers.backends.tensorrt.pycuda import rows_of
from helpers.layouts import Layout, Packed, Padded, Profile
from tests.batches import of_lengths
from tests.models import small_config

PROFILE = Profile(2, 128)


def shapes(layout: Layout, lengths: list[int]) -> dict[str, tuple[int, ...]]:
    batch = of_lengths(lengths, small_config())
    assert layout.profile(batch) == 0
    return {name: array.shape for name, array in layout.feed(batch).items()}


def test_packed() -> None:
    layout = Packed([PROFILE])
    least, best, short = (shapes(layout, lengths) for lengths in ([1], [128] * 2, [64] * 4))
    expected = {name: (least[name], best[name], max(best[name], short[name])) for name in layout.inputs}
    assert profile_shapes(PROFILE, packed=True) == expected


def test_padded() -> None:
    """A sequence may be as short as it likes, its row is not."""
    layout = Padded([PROFILE], any_length=False)
    least, best, short = (shapes(layout, lengths) for lengths in ([128], [128] * 2, [1]))
    assert least == short
    assert profile_shapes(PROFILE, packed=False) == {name: (least[name], best[name], best[name]) for name in layout.inputs}


@pytest.mark.parametrize("width", [1, 2, 9, 768])
def test_rows_of_an_output(width: int) -> None:
    """TensorRT gives an axis that is the same in all batches its number: S in most engines, B where batches are of one."""
    for size in (-1, 1):
        assert {rows_of((size, length, width, 1, 1), packed=False) for length in (-1, 2, 384)} == {(width, False)}
        assert rows_of((size, 1, width, 1, 1), packed=False) == (width, True)
        assert rows_of((size, width, 1, 1), packed=True) == (width, True)
    assert rows_of((width, -1, 1, 1), packed=True) == (width, False)
