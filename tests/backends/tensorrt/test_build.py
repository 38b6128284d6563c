"""What a GPU alone can refuse while an engine is built, and the timing cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.commands.cli import FLAGS
from helpers.errors import InputError
from helpers.layouts import Profile
from tests.tensorrt_engines import WIDE, Heard, build, lively, request_for

pytestmark = pytest.mark.gpu


def test_weight_beyond_float16() -> None:
    weights = lively(WIDE)
    weights.layers[1].output.weight[3, 4] = -1e5
    build(weights, WIDE, request_for([Profile(1, 64)]))
    with pytest.raises(InputError, match=r"^bert.encoder.layer.1.output.dense.weight holds 100000, which float16 ") as caught:
        build(weights, WIDE, request_for([Profile(1, 64)], fp16=True))
    assert caught.value.told(FLAGS).endswith("build without --fp16")


def test_workspace_too_small_says_what_is_needed() -> None:
    with pytest.raises(InputError, match=r"a workspace of 1 MiB is too small.*need \d+ MiB") as caught:
        build(lively(WIDE), WIDE, request_for([Profile(64, 512)], workspace_mib=1))
    assert "raise -w" in caught.value.told(FLAGS)


def test_useless_timing_cache_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"not a timing cache")
    request = request_for([Profile(1, 64)], fp16=True, timing_cache=cache)
    first, second = Heard(), Heard()
    build(lively(WIDE), WIDE, request, first)
    assert [f"timing cache {cache} is not of TensorRT" in text for text in first.warnings] == [True]
    build(lively(WIDE), WIDE, request, second)
    assert second.warnings == []
