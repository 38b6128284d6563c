"""How work that takes time tells of itself: warnings, results, clocks and bars. Commands print them, Python stays silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from helpers.errors import spelled

T = TypeVar("T")


class Progress:
    """Warnings go to the log `helpers`, everything else nowhere. In texts {field} is a field of the request, as in errors."""

    def warn(self, text: str) -> None:
        logging.getLogger("helpers").warning(spelled(text, {}))

    def say(self, text: str) -> None:
        """One line of result."""

    def clock(self, what: str, least: float = 0.0) -> AbstractContextManager[None]:
        """Shows how long something takes, where that is at least so many seconds."""
        return nullcontext()

    def bar(self, items: Sequence[T], what: str, unit: str) -> Iterator[T]:
        """Goes through `items` with a bar."""
        return iter(items)

    def at_once(self) -> AbstractContextManager[None]:
        """For a library's long call that keeps Python's lock, so that no thread of ours could end the process: a signal does,
        as it is, and as fast as it comes. Nothing may be half written meanwhile."""
        return nullcontext()
