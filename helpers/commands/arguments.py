"""Arguments of a command line: a parser whose errors are one line, and types of numbers."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import suppress
from typing import Any, Callable, NoReturn

from helpers import __version__
from helpers.commands.process import complain


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
