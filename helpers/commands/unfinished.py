"""What was done when a signal ended the work is kept beside the output, in `<output>.partial`, until a whole run replaces it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, NamedTuple

from helpers import files, reading
from helpers.commands.process import at_end
from helpers.errors import InputError


class Form(NamedTuple):
    """Of an unfinished output: how many of how many `things` are done so far, as bytes; and which texts are such output."""

    things: str
    total: int
    done: Callable[[], tuple[int, bytes]]
    fits: Callable[[str], object]


def place(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@contextmanager
def kept(output: Path, form: Form) -> Iterator[None]:
    """Keeps what is done if a signal ends the process meanwhile, and removes what an earlier run kept if none does.

    Raises:
        InputError: a file of that name is none that an earlier run left: it would be lost.
    """
    if files.is_stream(output):
        yield
        return
    path = place(output)
    check(path, form)

    def keep() -> str:
        count, content = form.done()
        if not count:  # an earlier run's are worth more than none
            return ""
        files.write_bytes(path, content)
        return f"{count} of {form.total} {form.things} done, kept in {path}"

    with at_end(keep):
        yield
    with suppress(FileNotFoundError):
        path.unlink()


def check(path: Path, form: Form) -> None:
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        form.fits(reading.read_text(path, "", reading.LARGE))
    except (InputError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path} is needed for what is done when work is interrupted, and is no such file",
            "move it, or name another output",
        ) from e
