"""Timing an engine: repeated runs on random data, percentiles, JSON."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from helpers import backends, engine_file, files, reading
from helpers.backends.base import Session
from helpers.commands import bars, cli
from helpers.engine_file import Description
from helpers.errors import InputError
from helpers.layouts import Batch, Packed, bounds_of
from helpers.qa import squad
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.request import of_engine
from helpers.scheduling import schedule

VOCAB_SIZE = 30522  # of BERT's uncased vocabulary, for an engine without a description
GRAPHS = "extension"  # the runtime that has CUDA graphs


class Runs(NamedTuple):
    """How many runs are enough: `most`, or as many as `seconds` allow, but at least `least`."""

    most: int
    least: int = 0
    seconds: float = math.inf

    def expected(self, count: int, seconds: float) -> int:
        """How many it will be, where so many have taken so long."""
        if self.seconds == math.inf:
            return self.most
        return min(self.most, max(self.least, math.ceil(count * self.seconds / seconds)))


# Where the user does not say: a batch takes a millisecond on one machine and a minute on another.
WARM_UPS, RUNS = Runs(10, 1, 2.0), Runs(200, 3, 10.0)


@dataclass(frozen=True)
class PerfRequest:
    """What is timed, and how.

    Args:
        batch_sizes: none for the engine's largest where `lengths` are given, else for 1.
        iterations, warm_up_runs: None for RUNS and WARM_UPS, which time bounds.
        runtime: None for the backend's first, or the one that has CUDA graphs where they are wanted.
        lengths: a file of sequence lengths or a SQuAD file; None for sequences that are all full.
        duration: least seconds a batch size.
    """

    engine: Path
    backend: str
    runtime: str | None
    batch_sizes: tuple[int, ...]
    sequence_length: int
    iterations: int | None
    warm_up_runs: int | None
    duration: float
    random_seed: int
    enable_graph: bool
    lengths: str | None
    end_to_end: bool
    json: Path | None

    @property
    def lengths_file(self) -> Path | None:
        if not self.lengths:
            return None
        return Path("squad/dev-v1.1.json" if self.lengths == "squad" else self.lengths)

    def inputs(self, description: Description | None) -> Iterator[Path | None]:
        """The files that are read, and those that the engine was built from."""
        yield from (*of_engine(self.engine, description), self.lengths_file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all perf scripts have."""
    cli.add_engine(parser)
    add = parser.add_argument
    add("-b", "--batch-size", type=cli.positive, action="append", help="batch size; may be repeated (default: 1)")
    add("-s", "--sequence-length", type=cli.positive, default=128, help="tokens of each sequence, or of the longest")
    runs, warm_ups = (f"(default: {n}), or as many as {s:g} s allow, at least {least}" for n, least, s in (RUNS, WARM_UPS))
    add("-i", "--iterations", type=cli.positive, help=f"timed runs a batch size {runs}")
    add("-w", "--warm-up-runs", type=cli.not_negative, help=f"runs before the clock starts {warm_ups}")
    add("-d", "--duration", type=cli.at_least(0), default=0.0, help="least seconds a batch size")
    add("-r", "--random-seed", type=cli.not_negative, default=12345, help="seed of the input tokens")
    add("--runtime", choices=backends.RUNTIMES, help="what runs a TensorRT engine (default: pycuda; extension with graphs)")
    add("--enable-graph", action="store_true", help="replay a captured CUDA graph, which the C++ extension does")
    add("--lengths", metavar="FILE|squad", help="sequences of these lengths: a file of numbers, or the windows of a SQuAD file")
    add("--end-to-end", action="store_true", help="from arrays on the host to logits on the host, by a wall clock")
    add("--json", type=Path, help="write the figures to this file, with device, versions and engine")


def request(parser: cli.Parser, args: argparse.Namespace) -> PerfRequest:
    """What the command line asks for."""
    if args.enable_graph and args.runtime not in (None, GRAPHS):
        parser.error(f"--enable-graph needs --runtime {GRAPHS}, not {args.runtime}")
    return PerfRequest(
        engine=args.engine,
        backend=args.backend,
        runtime=GRAPHS if args.enable_graph else args.runtime,
        batch_sizes=tuple(args.batch_size or ()),
        **{
            name: getattr(args, name)
            for name in PerfRequest.__annotations__
            if name not in ("engine", "backend", "runtime", "batch_sizes")
        },
    )


def random_batch(lengths: Sequence[int], vocab_size: int, seed: int, segments: int = 2) -> Batch:
    """Sequences of random tokens of these lengths, in so many segments."""
    generator = np.random.default_rng(seed)
    tokens = int(np.sum(lengths))
    ids = generator.integers(0, vocab_size, tokens, np.int32)
    return Batch(ids, generator.integers(0, segments, tokens, np.int32), bounds_of(lengths))


def read_lengths(path: Path, sequence_length: int, session: Session, description: Description | None) -> list[int]:
    """Lengths of sequences, from a file of whole numbers, or of the windows over a SQuAD file (.json).

    Raises:
        InputError: the file cannot be read, or a length is not from 1 to `sequence_length`.
    """
    if path.suffix == ".json":
        if not path.exists():
            raise InputError(f"{path} does not exist", "fetch it with scripts/download_squad.sh, or name a file of lengths")
        if description is None:
            raise InputError(
                f"the engine has no description, which would name the vocabulary for {path}", "give a file of lengths"
            )
        encoded = Reader(session, description).encode_squad(*squad.read(path), Options(sequence_length))
        return [window.length for window in encoded.windows]
    lengths = []
    for word in reading.read_text(path, "lengths file").split():
        try:
            lengths.append(int(word))
        except ValueError as e:
            raise InputError(f"lengths file {path} must hold whole numbers only, not {word[:20]!r}") from e
    if not lengths or min(lengths) < 1 or max(lengths) > sequence_length:
        raise InputError(f"lengths file {path} must hold numbers from 1 to {sequence_length}, the sequence length, at least one")
    return lengths


def end_to_end(session: Session, batch: Batch) -> Callable[[], float]:
    """A function that answers one batch, copies included, and returns milliseconds."""

    def once() -> float:
        start = time.perf_counter()
        for _ in session.stream([batch]):
            pass
        return (time.perf_counter() - start) * 1e3

    return once


def measure(
    runs: Sequence[Callable[[], Callable[[], float]]], what: str, warm_ups: Runs, iterations: Runs, duration: float
) -> np.ndarray:
    """Times several batches in turn, in whole rounds, until the runs are enough and `duration` seconds have passed.

    Args:
        runs: each prepares one batch and returns what runs it and gives milliseconds.
        what: is timed, for the bar.

    Returns:
        Milliseconds, [rounds, len(runs)].
    """
    ready: Callable[[], float] | None = None

    def once(prepare: Callable[[], Callable[[], float]]) -> float:
        nonlocal ready
        prepared = ready or prepare()
        if len(runs) == 1:  # one batch is copied to the GPU once
            ready = prepared
        return prepared()

    with bars.bar(f"{what}, warm-up", "run", warm_ups.most) as shown:
        for _, prepare in zip(steps(warm_ups, 1, 0, shown), itertools.cycle(runs)):
            once(prepare)
    with bars.bar(what, "run", iterations.most) as shown:
        return np.array([[once(prepare) for prepare in runs] for _ in steps(iterations, len(runs), duration, shown)])


def steps(wanted: Runs, size: int, duration: float, shown: Any) -> Iterator[None]:
    """Steps of `size` runs each until these are enough and `duration` seconds have passed; the bar `shown` tells of them."""
    start, count = time.monotonic(), 0
    while True:
        seconds = time.monotonic() - start
        if count and seconds:
            shown.n, shown.total = count, max(wanted.expected(count, seconds), math.ceil(count * duration / seconds))
        enough = count >= wanted.most or (count >= wanted.least and seconds >= wanted.seconds)
        if enough and seconds >= duration:
            return
        yield
        count += size


def summary(times: np.ndarray) -> dict[str, float]:
    """Total, average, median, 95th and 99th percentile of times in ms."""
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    figures = {"total": times.sum(), "average": times.mean(), "median": p50, "p95": p95, "p99": p99}
    return {f"{name}_ms": round(float(value), 4) for name, value in figures.items()}


def run(request: PerfRequest) -> None:
    """Times what is asked for, prints it, and writes the JSON.

    Raises:
        InputError: a batch size or the sequence length is not one of the engine's.
    """
    if request.json:
        description = engine_file.read_description(request.engine)
        files.check_outputs([request.json], request.inputs(description), streams=True)
    runtime_options = {"enable_graph": True} if request.enable_graph else {}
    with cli.elapsed(f"Loading {request.engine}", bars.SLOW):
        session, description = backends.open_engine(request.engine, request.backend, request.runtime, **runtime_options)
    longest, layout = request.sequence_length, session.layout
    if longest > layout.max_sequence_length:
        raise InputError(
            f"sequence length {longest} is above the engine's, {layout.max_sequence_length}", "lower {sequence_length}"
        )
    lengths = None
    if request.lengths_file:
        with cli.elapsed(f"Reading {request.lengths_file}", bars.SLOW):
            lengths = read_lengths(request.lengths_file, longest, session, description)
    vocab_size = description.vocab_size if description else session.vocab_size or VOCAB_SIZE
    segments = 1 + description.template[-1] if description and description.template else 1
    largest = layout.max_batch_size(longest)
    sizes = request.batch_sizes or (largest if lengths else 1,)
    if max(sizes) > largest:
        raise InputError(f"batch size {max(sizes)} is above the engine's largest, {largest}", "lower {batch_size}")
    if not lengths and layout.counted(longest, longest) != longest:
        raise InputError(
            f"sequence length {longest} is not one of the engine's, {layout.listed()}", "give it with {sequence_length}"
        )

    print(f"Timing {request.engine} with {session.runtime} on {session.device}" + ", CUDA graphs" * request.enable_graph)
    figures: dict[str, Any] = {
        "backend": session.backend,
        "runtime": session.runtime,
        "version": session.version,
        "device": session.device,
        "engine": str(request.engine),
        "precision": description.precision if description else None,
        "packed": isinstance(layout, Packed),
        "lengths": request.lengths,
        "random_seed": request.random_seed,
        "enable_graph": request.enable_graph,
        "end_to_end": request.end_to_end,
        "results": [],
    }
    warm_ups = WARM_UPS if request.warm_up_runs is None else Runs(request.warm_up_runs)
    iterations = RUNS if request.iterations is None else Runs(request.iterations)
    for i, size in enumerate(sizes, 1):
        seen = lengths or [longest] * size
        batches = schedule(seen, layout, size if request.batch_sizes else None) if lengths else [list(range(size))]

        def prepare(indexes: Sequence[int], seen: Sequence[int] = seen) -> Callable[[], float]:
            batch = random_batch([seen[i] for i in indexes], vocab_size, request.random_seed, segments)
            return end_to_end(session, batch) if request.end_to_end else session.timed(batch)

        runs = [functools.partial(prepare, indexes) for indexes in batches]
        times = measure(runs, f"Batch size {size}", warm_ups, iterations, request.duration)
        row = {"batch_size": size, "sequence_length": longest, "iterations": times.size, **summary(times)}
        if lengths:
            seconds = float(np.median(times.sum(1))) / 1e3  # of one round over all sequences
            row |= {"sequences": len(seen), "tokens": sum(seen), "batches": len(batches), "round_s": round(seconds, 4)}
            row |= {"tokens_per_s": round(sum(seen) / seconds, 1), "sequences_per_s": round(len(seen) / seconds, 1)}
        print_row(row)
        figures["results"].append(row)
        # A row that is there is not lost with the next one. What a pipe has got cannot be replaced.
        if request.json and (i == len(sizes) or not files.is_stream(request.json)):
            files.write_json(request.json, figures)


def print_row(row: dict[str, Any]) -> None:
    """In the words of NVIDIA's demo."""
    size, length = row["batch_size"], row["sequence_length"]
    print(f"Running {row['iterations']} iterations with Batch Size: {size}, Sequence Length: {length}")
    print(f"\tTotal time: {row['total_ms']:.3f} ms")
    for name, key in (("Average", "average"), ("Median", "median"), ("95th percentile", "p95"), ("99th percentile", "p99")):
        print(f"\t{name}: {row[f'{key}_ms']:.3f} ms")
    if "tokens" in row:
        print(f"\t{row['sequences']} sequences, {row['tokens']} tokens in {row['batches']} batches: {row['round_s']:.3f} s")
        print(f"\t{row['tokens_per_s']:.0f} tokens/s, {row['sequences_per_s']:.1f} sequences/s")
    sys.stdout.flush()  # before the figures, where those go there too
