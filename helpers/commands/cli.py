"""What the command lines share: flags and their types, and what is shown while work takes time."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, NoReturn

from helpers import __version__, backends
from helpers.commands.flags import FLAGS
from helpers.commands.process import complain, main  # noqa: F401
from helpers.errors import printable, spelled
from helpers.progress import Progress, T


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds a default to the help of each flag that has one and does not tell it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line `error: …`."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=Help, allow_abbrev=False)
        self.add_argument("--version", action="version", version=__version__)
        self.add_argument("--verbose", action="store_true", help="detailed log, and tracebacks of errors")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what can stand here
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_args(*args, **kwargs)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """No abbreviations, of flags with one dash neither, and none run together: -t must not become -tcf, nor -il -i -l."""
        return [
            found
            for found in super()._get_option_tuples(option_string)
            if option_string.startswith(found[1]) and (found[0].nargs != 0 or option_string == found[1])
        ]

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's own, but that a full disk is told."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        complain("error", message)
        raise SystemExit(2)


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

    def bar(self, items: Sequence[T], what: str, unit: str) -> Iterator[T]:
        from tqdm import tqdm

        return iter(tqdm(items, what, unit=unit))


SLOW = 2.0  # seconds of work without a word


def slow(total: int, unit: str) -> Any:
    """A bar, tqdm's, that shows where the work takes long."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, smoothing=0, delay=SLOW)


def whole_number(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` that fits 32 bits, as TensorRT's sizes do."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = -1
        if not least <= value < 2**31:
            most = " to 2147483647" * (value > least)
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}{most}, not {text!r}")
        return value

    return number


positive, not_negative = whole_number(1), whole_number(0)


def finite(text: str) -> float:
    """An argparse type: a finite number."""
    with suppress(ValueError):
        value = float(text)
        if math.isfinite(value):
            return value
    raise argparse.ArgumentTypeError(f"must be a finite number, not {text!r}")


def at_least(least: float) -> Callable[[str], float]:
    """An argparse type: a finite number from `least`."""

    def number(text: str) -> float:
        value = finite(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g}, not {text!r}")
        return value

    return number


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
