"""What perf.py's figures are made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest

from helpers import backends
from helpers.commands.cli import FLAGS
from helpers.commands.perf import PerfRequest, measure, random_batch, run, summary
from helpers.errors import InputError
from helpers.layouts import Padded, Profile


def test_summary() -> None:
    figures = {"total_ms": 5050.0, "average_ms": 50.0, "median_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
    assert summary(np.arange(101.0)) == figures


def test_random_batch() -> None:
    batch = random_batch([1, 200, 7], 5, seed=1)
    batch.check()
    assert batch.lengths.tolist() == [1, 200, 7]
    assert {array.dtype.name for array in batch} == {"int32"}
    assert (set(batch.input_ids[1:201].tolist()), set(batch.segment_ids[1:201].tolist())) == ({0, 1, 2, 3, 4}, {0, 1})
    again, other = random_batch([1, 200, 7], 5, seed=1), random_batch([1, 200, 7], 5, seed=2)
    assert (again.input_ids == batch.input_ids).all() and (other.input_ids != batch.input_ids).any()


def test_measure_runs_in_turn_and_whole_rounds() -> None:
    log = ""

    def batch(name: str, milliseconds: float) -> Callable[[], Callable[[], float]]:
        def once() -> float:
            nonlocal log
            log += name
            return milliseconds

        def prepare() -> Callable[[], float]:
            nonlocal log
            log += f" {name}"
            return once

        return prepare

    assert measure([batch("a", 1), batch("b", 2)], 3, 3, 0).tolist() == [[1, 2], [1, 2]]
    assert log == " aa bb aa" + " aa bb aa bb"
    log = ""
    assert measure([batch("a", 1)], 2, 3, 0).tolist() == [[1], [1], [1]]
    assert log == " aaaaaa"  # prepared once


def test_measure_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: whole rounds until the time is up, but no fewer iterations than are asked for."""
    clock = 0.0

    def once() -> float:
        nonlocal clock
        clock += 0.375
        return 375.0

    monkeypatch.setattr("time.monotonic", lambda: clock)
    runs: list[Callable[[], Callable[[], float]]] = [lambda: once]
    assert measure(runs, 0, 1, 1.0).tolist() == [[375]] * 3
    assert measure(runs * 2, 0, 1, 1.0).tolist() == [[375] * 2] * 2
    assert measure(runs, 0, 4, 1.0).tolist() == [[375]] * 4


def test_a_sequence_length_between_the_profiles_of_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ONNX Runtime's engines take those; on TensorRT another length would be timed than was asked for."""
    session: Any = SimpleNamespace(layout=Padded([Profile(1, 64), Profile(1, 128)], any_length=False), vocab_size=5)
    monkeypatch.setattr(backends, "open_engine", lambda *_, **__: (session, None))
    request = PerfRequest(
        engine=Path("engine"),
        backend="auto",
        runtime=None,
        batch_sizes=(),
        sequence_length=96,
        iterations=1,
        warm_up_runs=0,
        duration=0,
        random_seed=1,
        enable_graph=False,
        lengths=None,
        end_to_end=False,
        json=None,
    )
    with pytest.raises(InputError) as error:
        run(request)
    assert error.value.told(FLAGS) == "sequence length 96 is not one of the engine's, 1 × 64, 1 × 128: give it with -s"
