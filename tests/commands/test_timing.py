"""What perf.py's figures are made of."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest

from helpers import backends
from helpers.commands.flags import FLAGS
from helpers.commands.perf import RUNS, WARM_UPS, PerfRequest, Runs, measure, random_batch, run, summary
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

    assert measure([batch("a", 1), batch("b", 2)], "", Runs(3), Runs(3), 0).tolist() == [[1, 2], [1, 2]]
    assert log == " aa bb aa" + " aa bb aa bb"
    log = ""
    assert measure([batch("a", 1)], "", Runs(2), Runs(3), 0).tolist() == [[1], [1], [1]]
    assert log == " aaaaaa"  # prepared once


FOUR = Runs(4)


@pytest.mark.parametrize(
    ("seconds", "batches", "warm_ups", "iterations", "duration", "warmed_up", "rounds"),
    [
        (0.375, 1, Runs(0), Runs(1), 1.0, 0, 3),  # until the duration is over
        (0.375, 2, Runs(0), Runs(1), 1.0, 0, 2),  # but whole rounds
        (0.375, 1, Runs(0), FOUR, 1.0, 0, 4),  # and no fewer iterations than are asked for
        (60.0, 1, FOUR, FOUR, 0.0, 4, 4),  # however long they take
        # By default as many as time allows, but a few.
        (0.01, 1, WARM_UPS, RUNS, 0.0, 10, 200),
        (0.01, 2, WARM_UPS, RUNS, 0.0, 10, 100),
        (0.375, 1, WARM_UPS, RUNS, 0.0, 6, 27),
        (60.0, 1, WARM_UPS, RUNS, 0.0, 1, 3),
        (60.0, 2, WARM_UPS, RUNS, 0.0, 1, 2),
        (0.375, 1, Runs(1), RUNS, 15.0, 1, 40),  # longer where that is asked for
        (0.01, 1, Runs(1), RUNS, 3.0, 1, 300),
    ],
)
def test_measure_for_some_time(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    batches: int,
    warm_ups: Runs,
    iterations: Runs,
    duration: float,
    warmed_up: int,
    rounds: int,
) -> None:
    """On a clock of its own, which each run moves on."""
    clock, count = Fraction(0), 0

    def once() -> float:
        nonlocal clock, count
        clock += Fraction(str(seconds))
        count += 1
        return 1e3 * seconds

    monkeypatch.setattr("time.monotonic", lambda: clock)
    times = measure([lambda: once] * batches, "", warm_ups, iterations, duration)
    assert times.tolist() == [[1e3 * seconds] * batches] * rounds
    assert count == warmed_up + rounds * batches


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
