"""What a GPU alone can refuse while an engine is built, and the timing cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.backends.tensorrt import BACKEND
from helpers.backends.tensorrt.build import MAGIC, SEAL, check_timing_cache, make_builder, read_timing_cache
from helpers.commands.flags import FLAGS
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


# Timing caches


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timing cache that a build has written; the next build reads it."""
    path = tmp_path_factory.mktemp("cache") / "timing.cache"
    request = request_for([Profile(1, 64)], fp16=True, timing_cache=path)
    for _ in range(2):
        heard = Heard()
        build(lively(WIDE), WIDE, request, heard)
        assert heard.warnings == []
    return path


def read(path: Path) -> list[str]:
    """What is said of a timing cache that is read."""
    said: list[str] = []
    builder = make_builder()
    read_timing_cache(builder.create_builder_config(), path, said.append)
    return said


def test_what_is_no_timing_cache_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for content in (b"not a timing cache", b"\0", bytes(100), b"PK\3\4" + bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"notes\.txt is not a timing cache, and would be replaced") as caught:
            check_timing_cache(path)
        assert caught.value.told(FLAGS).endswith("name another file with -tcf")
        with pytest.raises(InputError, match="is not a timing cache"):  # before anything of the model is looked at
            BACKEND.check(request_for([Profile(1, 64)], fp16=True, timing_cache=path), WIDE, lambda text: None)
        assert path.read_bytes() == content


def test_missing_and_empty_timing_caches_are_filled(tmp_path: Path) -> None:
    path, heard = tmp_path / "timing.cache", Heard()
    check_timing_cache(path)
    path.touch()
    build(lively(WIDE), WIDE, request_for([Profile(1, 64)], fp16=True, timing_cache=path), heard)
    assert heard.warnings == []
    assert path.stat().st_size
    assert read(path) == []


def test_timing_caches_of_others_are_taken_as_they_are(cache: Path, tmp_path: Path) -> None:
    """Those that TensorRT's own tools write have no digest."""
    content, path = cache.read_bytes(), tmp_path / "timing.cache"
    seal = SEAL.search(content)
    assert seal
    path.write_bytes(content[: seal.start()])
    assert read(path) == []


def test_damaged_timing_caches_are_ignored_and_replaced(cache: Path, tmp_path: Path) -> None:
    whole, path = cache.read_bytes(), tmp_path / "timing.cache"
    generator = np.random.default_rng(0)
    positions = [*range(MAGIC + 8), *generator.integers(0, len(whole) - 64, 40).tolist()]
    for position in positions:
        content = bytearray(whole)
        content[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        if position < MAGIC:
            with pytest.raises(InputError, match="is not a timing cache"):
                read(path)
        else:
            assert read(path) == [f"timing cache {path} is damaged: ignored, and replaced after the build"]
    heard = Heard()
    build(lively(WIDE), WIDE, request_for([Profile(1, 64)], fp16=True, timing_cache=path), heard)
    assert len(heard.warnings) == 1
    assert read(path) == []


def test_a_full_disk_costs_the_timing_cache_alone(tmp_path: Path) -> None:
    heard, path = Heard(), tmp_path / "none/timing.cache"
    built = build(lively(WIDE), WIDE, request_for([Profile(1, 64)], fp16=True, timing_cache=path), heard)
    assert [f"cannot write {path}: No such file" in text for text in heard.warnings] == [True]
    assert built.blob
