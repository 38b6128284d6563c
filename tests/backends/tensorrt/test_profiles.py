"""The shapes that TensorRT is told are those that a layout's batches have."""

from __future__ import annotations

from helpers.backends.tensorrt.build import profile_shapes
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
