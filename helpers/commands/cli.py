"""What the command lines share: flags, and what is shown while work takes time."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from helpers import backends
from helpers.commands import process
from helpers.commands.arguments import Parser as Parser
from helpers.commands.arguments import at_least as at_least
from helpers.commands.arguments import finite as finite
from helpers.commands.arguments import not_negative as not_negative
from helpers.commands.arguments import positive as positive
from helpers.commands.arguments import whole_number as whole_number
from helpers.commands.flags import FLAGS
from helpers.commands.process import complain
from helpers.errors import printable, spelled
from helpers.progress import Progress, T


def warn(message: str) -> None:
    complain("warning", message)


class Terminal(Progress):
    """Warnings, clocks and bars go to standard error, results to standard output."""

    def warn(self, text: str) -> None:
        warn(spelled(text, FLAGS))

    def say(self, text: str) -> None:
        print(printable(text))

    def clock(self, what: str, least: float = 0.0) -> AbstractContextManager[None]:
        return elapsed(what, least)

    def at_once(self) -> AbstractContextManager[None]:
        return process.at_once()

    def bar(self, items: Sequence[T], what: str, unit: str) -> Iterator[T]:
        from tqdm import tqdm

        return iter(tqdm(items, what, unit=unit))


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=backends.CHOICES,
        default="auto",
        help="what runs the network; auto takes the first that is available",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-e", "--engine", type=Path, required=True, help="engine file")
    add_backend(parser)


@contextmanager
def elapsed(what: str, least: float = 0.0) -> Iterator[None]:
    """Shows how long something takes: a running clock on a terminal, one line at the end elsewhere.

    Args:
        least: seconds; what takes less is not shown.
    """
    start, done, live = time.monotonic(), threading.Event(), sys.stderr.isatty()

    def show(end: str) -> None:
        if (seconds := time.monotonic() - start) >= least:
            print(f"\r{what}: {seconds:.1f} s", end=end, file=sys.stderr, flush=True)

    def tick() -> None:
        while not done.wait(0.5):
            show("")

    thread = threading.Thread(target=tick, daemon=True)
    if live:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if live:
            thread.join()
        show("\n")


def one_of(parser: Parser, args: argparse.Namespace, *names: str) -> Any:
    """The one argument among `names` that was given; a usage error where it is none or several."""
    given = [name for name in names if getattr(args, name)]
    if len(given) != 1:
        spelled = ", ".join("--" + name.replace("_", "-") for name in names)
        parser.error(f"give exactly one of {spelled}" + (f", not {len(given)}" if given else ""))
    return given[0]
