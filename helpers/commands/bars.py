"""A bar for work that takes more than two seconds, which moves on also while one step of it takes longer than that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(what: str, unit: str, total: int | None = None, leave: bool = False) -> Iterator[Any]:
    """A bar, tqdm's, that a thread draws once a second; whoever works sets its `n`, and may set its `total`.

    Args:
        unit: of what is counted.
        total: None where it is not known yet.
        leave: whether it stays when the work is done.
    """
    from tqdm import tqdm

    with tqdm(None, what, total, leave, unit=unit, delay=2, mininterval=1, miniters=0, smoothing=0) as shown:
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
