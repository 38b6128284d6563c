"""Timing an engine: repeated runs on random data, percentiles, JSON."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers import cli, engine, files
from helpers.errors import InputError
from helpers.sessions import Session
from helpers.windows import Batch

VOCAB_SIZE = 30522  # of BERT's uncased vocabulary, for an engine without a description


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all perf scripts have."""
    cli.add_engine(parser)
    add = parser.add_argument
    add("-b", "--batch-size", type=cli.positive, action="append", help="batch size; may be repeated (default: 1)")
    add("-s", "--sequence-length", type=cli.positive, default=128, help="tokens of each sequence")
    add("-i", "--iterations", type=cli.positive, default=200, help="timed runs a batch size")
    add("-w", "--warm-up-runs", type=cli.not_negative, default=10, help="runs before the clock starts")
    add("-d", "--duration", type=float, default=0.0, help="least seconds a batch size")
    add("-r", "--random-seed", type=int, default=12345, help="seed of the input tokens")
    add("--json", type=Path, help="write the figures to this file, with device, versions and engine")


def random_batch(size: int, length: int, vocab_size: int, seed: int) -> Batch:
    """Full sequences of random tokens, [size, length]."""
    generator = np.random.default_rng(seed)
    shape = (size, length)
    return Batch(
        generator.integers(0, vocab_size, shape, np.int32),
        generator.integers(0, 2, shape, np.int32),
        np.ones(shape, np.int32),
    )


def measure(once: Callable[[], float], warm_ups: int, iterations: int, duration: float) -> np.ndarray:
    """Milliseconds of each of `iterations` runs, or more until `duration` seconds have gone by."""
    for _ in range(warm_ups):
        once()
    times: list[float] = []
    start = time.monotonic()
    while len(times) < iterations or time.monotonic() - start < duration:
        times.append(once())
    return np.array(times)


def summary(times: np.ndarray) -> dict[str, float]:
    """Total, average, median, 95th and 99th percentile of times in ms."""
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    figures = {"total": times.sum(), "average": times.mean(), "median": p50, "p95": p95, "p99": p99}
    return {f"{name}_ms": round(float(value), 4) for name, value in figures.items()}


def run(args: argparse.Namespace, open_session: Callable[..., Session]) -> None:
    """Times what the command line asks for, prints it, and writes the JSON.

    Raises:
        InputError: a batch size or the sequence length is not one of the engine's.
    """
    if args.json:
        files.check_writable(args.json)
    description = engine.describe(args.engine)
    session = open_session(args.engine, args.backend, description)
    length = args.sequence_length
    vocab_size = description.vocab_size if description else VOCAB_SIZE
    if length > session.max_sequence_length or session.padded_length(length) != length:
        known = sorted({profile.sequence_length for profile in session.profiles})
        raise InputError(f"sequence length {length} is not one of the engine's ({', '.join(map(str, known))}): give it with -s")
    sizes = args.batch_size or [1]
    largest = session.max_batch_size(length)
    if max(sizes) > largest:
        raise InputError(f"batch size {max(sizes)} is above the engine's largest, {largest}")

    rows: list[dict[str, Any]] = []
    for size in sizes:
        batch = random_batch(size, length, vocab_size, args.random_seed)
        times = measure(session.timed(batch), args.warm_up_runs, args.iterations, args.duration)
        row = {"batch_size": size, "sequence_length": length, "iterations": len(times), **summary(times)}
        rows.append(row)
        print(f"Running {len(times)} iterations with Batch Size: {size}, Sequence Length: {length}")
        print(f"\tTotal time: {row['total_ms']:.3f} ms")
        for name, key in (("Average", "average"), ("Median", "median"), ("95th percentile", "p95"), ("99th percentile", "p99")):
            print(f"\t{name}: {row[f'{key}_ms']:.3f} ms")
    if args.json:
        files.write_json(
            args.json,
            {
                "backend": session.backend,
                "version": session.version,
                "device": session.device,
                "engine": str(args.engine),
                "precision": description.precision if description else None,
                "random_seed": args.random_seed,
                "results": rows,
            },
        )
