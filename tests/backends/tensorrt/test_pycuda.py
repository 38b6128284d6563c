"""The PyCUDA session: what it refuses, and the memory that it takes and gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from helpers import engine_file
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.pycuda import PyCudaSession
from helpers.commands.perf import random_batch
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.reader import Reader
from tests.running import MODEL
from tests.tensorrt_engines import WIDE, Engines, held_and_left, opened, ragged

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def test_padded_refuses_what_does_not_fit(engines: Engines) -> None:
    session = opened(engines.build(WIDE, [Profile(1, 64), Profile(8, 64)], fp16=True))
    with pytest.raises(InputError, match="a batch of 9 × 64 tokens fits none"):
        list(session.stream([ragged(9, 64, 0)]))
    with pytest.raises(InputError, match="a batch of 1 × 65 tokens fits none"):
        session.timed(ragged(1, 65, 0))


def test_packed_refuses_what_does_not_fit(engines: Engines) -> None:
    session = opened(engines.build(WIDE, [Profile(2, 384), Profile(8, 384)], fp16=True, packed=True))
    for lengths, message in (
        ([384] * 9, "9 sequences of 3456 tokens"),
        ([1] * 49, "49 sequences of 49 tokens"),
        ([385], "1 sequences of 385 tokens, the longest of 385, do not fit the engine"),
    ):
        with pytest.raises(InputError, match=message):
            list(session.stream([random_batch(lengths, 200, 0)]))


def test_results_come_in_the_order_of_their_batches(engines: Engines) -> None:
    """However many are under way."""
    session = opened(engines.build(WIDE, [Profile(1, 64), Profile(8, 64)], fp16=True))
    batches = [ragged(1 + i % 8, 64, i) for i in range(20)]
    alone = [next(iter(session.stream([batch]))) for batch in batches]
    for found, expected in zip(session.stream(iter(batches)), alone):
        assert np.array_equal(found, expected)
    assert 0 < session.timed(batches[7])() < 1e3
    assert list(session.stream([])) == []


def test_damaged_and_foreign_engines(engines: Engines, tmp_path: Path) -> None:
    whole = engines.build(WIDE, [Profile(4, 64)], fp16=True).read_bytes()
    path = tmp_path / "cut"
    for keep in (5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="cut cannot be loaded, build it again"):
            opened(path)
    path.write_bytes(b"ftrt" + bytes(1000))
    with pytest.raises(InputError, match="cannot be loaded, build it again"):
        opened(path)


def test_engine_of_another_version_or_gpu(engines: Engines, tmp_path: Path) -> None:
    whole = engines.build(WIDE, [Profile(4, 64)], fp16=True)
    path = tmp_path / "engine"
    path.write_bytes(whole.read_bytes())
    fields = json.loads(engine_file.description_path(whole).read_text())
    for changes in ({}, {"version": "8.4.3"}, {"gpu": "NVIDIA A30"}):
        engine_file.description_path(path).write_text(json.dumps({**fields, **changes}))
        if not changes:
            assert opened(path).backend == "tensorrt"
            continue
        with pytest.raises(InputError, match=next(iter(changes.values())) + ".*here are TensorRT"):
            opened(path)


# Memory


def test_out_of_gpu_memory_says_what_was_asked_for(engines: Engines) -> None:
    path = engines.build(WIDE, [Profile(4, 64)], fp16=True)
    cuda = runtime.cuda()
    taken = []
    size = 1 << 36
    while size >= 1 << 20:
        try:
            taken.append(cuda.mem_alloc(size))
        except cuda.MemoryError:
            size >>= 1
    try:
        with pytest.raises(InputError, match=r"out of GPU memory: .* need .* MiB, free are"):
            sessions = [opened(path) for _ in range(50)]
            del sessions
    finally:
        for memory in taken:
            memory.free()


def test_close_gives_the_memory_back(engines: Engines) -> None:
    path = engines.build(WIDE, [Profile(64, 384)])  # in float32 the scores of attention take much
    batches = [ragged(64, 384, seed) for seed in range(4)]

    def work() -> Callable[[], object]:
        session = PyCudaSession(path)
        assert len(list(session.stream(batches))) == 4
        session.timed(batches[0])()

        def close() -> None:
            session.close()
            session.close()  # does no harm

        return close

    held, left = held_and_left(work)
    assert held > 32 * MIB
    assert left <= 8 * MIB


def test_reader_gives_the_memory_back(bundled: Path) -> None:
    passage = "TensorRT is a high performance deep learning inference platform that delivers low latency."

    def work() -> Callable[[], object]:
        with Reader.open(bundled) as reader:
            assert reader.session.runtime == "pycuda"
            assert "high performance" in reader.answer("What is TensorRT?", passage).text
        return reader.close  # which keeps it, and has nothing left to do

    held, left = held_and_left(work)
    assert held <= 8 * MIB and left <= 8 * MIB

    def fails() -> Callable[[], object]:
        with pytest.raises(InputError, match="absent cannot be read") as caught:
            Reader.open(bundled, vocab_file=MODEL / "absent")
        return lambda: caught

    held, left = held_and_left(fails)
    assert held <= 8 * MIB and left <= 8 * MIB
    with Reader.open(bundled):  # or there would be nothing to give back
        held, left = held_and_left(lambda: Reader.open(bundled).close)
    assert held > 32 * MIB
    assert left <= 8 * MIB
