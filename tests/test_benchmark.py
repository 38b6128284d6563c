"""What a benchmark's figures are made of; test_cli.py runs the scripts that print them."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest

from helpers.benchmark import add_arguments, measure, random_batch, run, summary
from helpers.errors import InputError
from helpers.sessions.layouts import Padded, Profile


def test_summary() -> None:
    figures = {"total_ms": 5050.0, "average_ms": 50.0, "median_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
    assert summary(np.arange(101.0)) == figures


def test_random_batch() -> None:
    ids, segments, mask = random_batch([1, 200, 7], 256, 5, seed=1)
    assert mask.tolist() == [[1] * n + [0] * (256 - n) for n in (1, 200, 7)]
    assert not (ids * (1 - mask)).any() and not (segments * (1 - mask)).any()
    assert (set(ids[1].tolist()), set(segments[1].tolist())) == ({0, 1, 2, 3, 4}, {0, 1})
    again, other = random_batch([1, 200, 7], 256, 5, seed=1), random_batch([1, 200, 7], 256, 5, seed=2)
    assert (again.input_ids == ids).all() and (other.input_ids != ids).any()


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


def test_a_sequence_length_between_the_profiles_of_an_engine(tmp_path: Path) -> None:
    """Only ONNX Runtime's engines take those; on TensorRT another length would be timed than was asked for."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["-e", str(tmp_path / "engine"), "-s", "96"])
    session: Any = SimpleNamespace(layout=Padded([Profile(1, 64), Profile(1, 128)], any_length=False), vocab_size=5)
    with pytest.raises(InputError, match=r"^sequence length 96 is not one of the engine's, .*64.*128.*: give it with -s$"):
        run(args, lambda *_: session)
