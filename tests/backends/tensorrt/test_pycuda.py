"""The PyCUDA session: what it refuses, and the memory that it takes and gives back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from helpers import engine_file
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.pycuda import PyCudaSession, read_profiles
from helpers.commands.perf import random_batch
from helpers.config import SEQUENCE_CLASSIFICATION
from helpers.errors import InputError
from helpers.layouts import Profile
from helpers.reader import Reader
from tests.running import MODEL
from tests.tensorrt_engines import OTHER_TASKS, WIDE, Engines, held_and_left, opened, ragged

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


@pytest.mark.parametrize("profiles", [[Profile(1, 64)], [Profile(2, 64), Profile(8, 128)]], ids=["one shape", "several"])
@pytest.mark.parametrize(("packed", "bound"), [(False, 1e-4), (True, 2e-2)], ids=["padded", "packed"])
@OTHER_TASKS
def test_outputs_of_other_tasks(
    tmp_path: Path, task: str, labels: str, packed: bool, bound: float, profiles: list[Profile]
) -> None:
    """Whose rows are as wide as the output's shape says, in buffers that the fullest batch fills."""
    config, engines, largest = replace(WIDE, task=task, labels=tuple(labels)), Engines(tmp_path), profiles[-1]
    session = PyCudaSession(engines.build(config, profiles, fp16=packed, packed=packed))
    pooled, width = task == SEQUENCE_CLASSIFICATION, len(labels) or config.hidden_size
    assert (session.layout.width, session.layout.pooled) == (width, pooled)
    sequences = largest.packed_sequences if packed else largest.batch_size
    assert read_profiles(session._engine)[1]["logits"] == width * (sequences if pooled else largest.tokens)

    full = [largest.tokens // sequences] * sequences
    lengths = [full, [1], [largest.sequence_length] * largest.batch_size, [1] * sequences, [5], full]
    batches = [random_batch(each, config.vocab_size, seed) for seed, each in enumerate(lengths)]
    found, expected = list(session.stream(batches)), list(engines.reference(config).stream(batches))
    assert [each.shape for each in found] == [(len(b.lengths) if pooled else len(b.input_ids), width) for b in batches]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() < bound * np.abs(np.concatenate(expected)).max()


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
        with pytest.raises(InputError, match=r"no tokenizer at .*absent") as caught:
            Reader.open(bundled, vocab_file=MODEL / "absent")
        return lambda: caught

    held, left = held_and_left(fails)
    assert held <= 8 * MIB and left <= 8 * MIB
    with Reader.open(bundled):  # or there would be nothing to give back
        held, left = held_and_left(lambda: Reader.open(bundled).close)
    assert held > 32 * MIB
    assert left <= 8 * MIB
