"""Bars for work that takes more than two seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Callable

from helpers.progress import T

SLOW = 2.0  # seconds of work without a word


@contextmanager
def bar(what: str, unit: str, total: int | None = None, leave: bool = False) -> Iterator[Any]:
    """A bar, tqdm's, that a thread draws once a second; whoever works sets its `n`, and may set its `total`.

    Args:
        unit: of what is counted.
        total: None where it is not known yet.
        leave: whether it stays when the work is done.
    """
    from tqdm import tqdm

    with tqdm(None, what, total, leave, unit=unit, delay=SLOW, mininterval=1, miniters=0, smoothing=0) as shown:
        done = threading.Event()

        def draw() -> None:
            while not done.wait(0.5):
                shown.update(0)

        thread = threading.Thread(target=draw, daemon=True)
        thread.start()
        try:
            yield shown
        finally:
            done.set()
            thread.join()


def through(parts: Iterable[T], total: int, unit: str, size: Callable[[T], int]) -> Iterator[T]:
    """Goes through parts of work, of which each is so many units, with a bar if that takes long."""
    done, start, bar = 0, time.monotonic(), None
    try:
        for part in parts:
            yield part
            done += size(part)
            if bar:
                bar.update(size(part))
            elif time.monotonic() - start > SLOW:
                from tqdm import tqdm  # which takes time itself

                bar = tqdm(total=total, unit=unit, initial=done, smoothing=0)
    finally:
        if bar:
            bar.close()
