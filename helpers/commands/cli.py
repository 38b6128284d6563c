"""What the command lines share: argument groups, and the one place that turns an error into a message and an exit code."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Callable, NoReturn

from helpers import __version__, backends
from helpers.errors import InputError, spelled
from helpers.progress import Progress, T

# How the command lines spell the fields of requests, for hints and warnings.
FLAGS = {
    "backend": f"--backend {backends.NAMES[-1]}",
    "batch_size": "-b",
    "calib_num": "--calib-num",
    "ckpt": "-m",
    "config_dir": "-c",
    "fp16": "--fp16",
    "int8": "--int8",
    "int8_attention": "-imh",
    "int8_skip_layer_norm": "-iln",
    "interleaved": "--interleaved",
    "max_question_len": "--max-query-length",
    "onnx": "-x",
    "output_gemm": "-g",
    "pickle": "--pickle",
    "pytorch": "-pt",
    "runtime": "--runtime",
    "sequence_length": "-s",
    "sparse": "--sparse",
    "squad_json": "--squad-json",
    "strict": "--strict",
    "task": "--task",
    "vocab_file": "-v",
    "workspace_mib": "-w",
}


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
        """No abbreviations, of flags with one dash neither: -t must not become -tcf."""
        return [found for found in super()._get_option_tuples(option_string) if option_string.startswith(found[1])]

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(command: Callable[[list[str]], None]) -> NoReturn:
    """Runs a script: exit 0 on success, 2 on bad usage or input, 1 on a failure at run time, 130 on Ctrl-C."""
    arguments = sys.argv[1:]
    try:
        command(arguments)
        sys.stdout.flush()
        code = 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        code = 1
    except Exception as e:
        if "--verbose" in arguments:
            traceback.print_exc()
        text = e.told(FLAGS) if isinstance(e, InputError) else ": ".join(filter(None, [type(e).__name__, str(e)]))
        print("error:", *text.split(), file=sys.stderr)
        code = 2 if isinstance(e, InputError) else 1
    raise SystemExit(code)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


class Terminal(Progress):
    """Warnings, clocks and bars go to standard error, results to standard output."""

    def warn(self, text: str) -> None:
        warn(spelled(text, FLAGS))

    def say(self, text: str) -> None:
        print(text)

    def clock(self, what: str) -> AbstractContextManager[None]:
        return elapsed(what)

    def bar(self, items: Sequence[T], what: str, unit: str) -> Iterator[T]:
        from tqdm import tqdm

        return iter(tqdm(items, what, unit=unit))


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


def at_least(least: float) -> Callable[[str], float]:
    """An argparse type: a finite number from `least`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
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
def elapsed(what: str) -> Iterator[None]:
    """Shows how long something takes: a running clock on a terminal, one line at the end elsewhere."""
    start, done, live = time.monotonic(), threading.Event(), sys.stderr.isatty()

    def show(end: str) -> None:
        print(f"\r{what}: {time.monotonic() - start:.1f} s", end=end, file=sys.stderr, flush=True)

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
