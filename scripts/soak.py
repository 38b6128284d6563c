#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Runs an engine for a long time on ragged random batches, and looks whether it takes more memory or changes its mind.

The same batches come again and again in another order. Logits must be what they were the first time, bit for bit; after the
first minute (or the first half, of a shorter run) memory must be flat: the host's within 1 MiB, the GPU's to the byte.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from helpers.backends.base import Session
    from helpers.layouts import Batch, Layout

BATCHES = 50
SETTLED = 60.0  # seconds after which memory must be flat
MARGIN = 1 << 20  # bytes that the host's may grow by: malloc keeps what it likes


class Memory(NamedTuple):
    """Bytes in use; `gpu` is of the whole GPU, which nobody else may use meanwhile, and 0 without one."""

    host: int
    gpu: int


def ragged(layout: Layout, vocab_size: int, segments: int, seed: int) -> Iterator[Batch]:
    """The batches: the engine's largest one, and others of any size and any lengths that it takes."""
    import numpy as np

    from helpers.commands.perf import random_batch

    generator = np.random.default_rng(seed)
    largest = max(layout.profiles, key=lambda profile: profile.tokens)
    yield random_batch([largest.sequence_length] * largest.batch_size, vocab_size, seed, segments)
    for number in range(1, BATCHES):
        size, length = layout.profiles[generator.integers(len(layout.profiles))]
        lengths = generator.integers(1, length, generator.integers(1, size, endpoint=True), endpoint=True)
        yield random_batch(lengths.tolist(), vocab_size, seed + number, segments)


def in_use(session: Session) -> Memory:
    """What is held once Python has let go of what it need not keep, and malloc has given back what it can.

    Of the host's memory only what is the process's own counts: pages of libraries' files come and go as they are read.
    """
    import ctypes
    import gc

    from helpers import backends

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    [host] = (int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Anonymous:"))
    if not backends.find(session.backend).on_gpu:
        return Memory(host, 0)
    from helpers.backends.tensorrt import runtime

    free, total = runtime.cuda().mem_get_info()
    return Memory(host, total - free)


def digest(logits: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(logits.tobytes()).hexdigest()


def soak(session: Session, batches: list[Batch], seconds: float, seed: int) -> dict[str, Any]:
    """Runs the batches in rounds until the time is up.

    Returns:
        How many batches were run in how many seconds; whether all had the logits of their first time; the memory in use since
        it must be flat, and by how many bytes it has grown or moved since, of so many measurements after a round.
    """
    import time

    import numpy as np

    from helpers.commands import bars

    generator, first, changed = np.random.default_rng(seed), dict[int, str](), set[int]()
    # Of what was in use, no list of it all, which would itself be half a megabyte after ten minutes.
    began = least = most = Memory(0, 0)
    start, count, measured = time.monotonic(), 0, 0
    with bars.bar("Soaking", unit=" batches") as shown:
        while (spent := time.monotonic() - start) < seconds or measured < 2:
            order = generator.permutation(len(batches)) if first else np.arange(len(batches))
            for i, logits in zip(order.tolist(), session.stream(batches[i] for i in order)):
                found = digest(logits)
                if first.setdefault(i, found) != found:
                    changed.add(i)
                count += 1
                shown.n = count
            if spent > min(SETTLED, seconds / 2):
                now, measured = in_use(session), measured + 1
                if measured == 1:
                    began = least = most = now
                least, most = Memory(*map(min, zip(least, now))), Memory(*map(max, zip(most, now)))
    return {
        "seconds": round(time.monotonic() - start, 1),
        "batches": count,
        "changed_batches": sorted(changed),
        "host_bytes": began.host,
        "host_grew_bytes": most.host - began.host,
        "gpu_bytes": began.gpu or None,
        "gpu_moved_bytes": most.gpu - least.gpu if began.gpu else None,
        "measured": measured,
    }


def drifts(figures: dict[str, Any]) -> list[str]:
    """What did not stay as it was."""
    found = []
    if figures["changed_batches"]:
        found.append(f"{len(figures['changed_batches'])} of {BATCHES} batches had other logits than the first time")
    if figures["host_grew_bytes"] > MARGIN:
        found.append(f"the host's memory grew by {figures['host_grew_bytes']} bytes from {figures['host_bytes']}")
    if figures["gpu_moved_bytes"]:
        found.append(f"the GPU's memory moved by {figures['gpu_moved_bytes']} bytes about {figures['gpu_bytes']}")
    return found


def main(argv: list[str]) -> None:
    from helpers import backends, engine_file, files
    from helpers.commands import cli
    from helpers.commands.perf import GRAPHS, VOCAB_SIZE
    from helpers.request import of_engine

    parser = cli.Parser(__doc__)
    cli.add_engine(parser)
    parser.add_argument("--seconds", type=cli.at_least(0), default=600.0, help="how long")
    parser.add_argument("-r", "--random-seed", type=cli.not_negative, default=12345, help="seed of the batches and their order")
    parser.add_argument("--runtime", choices=backends.RUNTIMES, help="what runs a TensorRT engine (default: pycuda)")
    parser.add_argument("--enable-graph", action="store_true", help="replay CUDA graphs, which the C++ extension does")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(argv)
    if args.json:
        inputs = of_engine(args.engine, engine_file.read_description(args.engine))
        files.check_outputs([args.json], inputs, streams=True)

    options = {"enable_graph": True} if args.enable_graph else {}
    runtime = GRAPHS if args.enable_graph else args.runtime
    session, description = backends.open_engine(args.engine, args.backend, runtime, **options)
    vocab_size = description.vocab_size if description else session.vocab_size or VOCAB_SIZE
    segments = 1 + description.template[-1] if description and description.template else 1
    batches = list(ragged(session.layout, vocab_size, segments, args.random_seed))
    figures = soak(session, batches, args.seconds, args.random_seed)
    about = {"engine": str(args.engine), "runtime": session.runtime, "version": session.version, "device": session.device}
    if args.json:
        files.write_json(args.json, {**about, "enable_graph": args.enable_graph, **figures})
    found = drifts(figures)
    if found:
        process.complain("error", f"{', '.join(found)}, over {figures['batches']} batches in {figures['seconds']} s")
        raise SystemExit(1)
    gpu = "" if figures["gpu_bytes"] is None else f", the GPU's flat at {figures['gpu_bytes']} bytes"
    print(
        f"{figures['batches']} batches in {figures['seconds']} s, every one as the first time; the host's memory grew by "
        f"{figures['host_grew_bytes']} bytes from {figures['host_bytes']}{gpu}"
    )


if __name__ == "__main__":
    process.main(main)
