"""The one kind of error that a user can mend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LONGEST = 800  # characters of a problem: a file may have a name of thousands of them where another is expected
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(Exception):
    """What the user gave cannot be used.

    Args:
        problem: what is wrong, and where.
        hint: what to do. A name in braces is a field of the request, "lower {sequence_length}": the command lines
            put their flag for it, in Python it is an argument's name.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        problem = problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}…"
        super().__init__(problem, hint)
        self.problem, self.hint = problem, hint

    def told(self, flags: Mapping[str, str]) -> str:
        """The whole message, fields spelled as `flags` has them."""
        separator = "; " if ": " in self.problem else ": "
        return self.problem + separator + spelled(self.hint, flags) if self.hint else self.problem

    def __str__(self) -> str:
        return self.told({})


class Busy(InputError):
    """What is asked for is here, but in use by others: nothing else takes its place unasked."""


def spelled(text: str, flags: Mapping[str, str]) -> str:
    """`text` with each {field} as its flag, or where it has none as its bare name."""
    return re.sub(r"\{(\w+)\}", lambda field: flags.get(field[1], field[1]), text)


def printable(text: str) -> str:
    """`text` with control characters, which a terminal would obey, escaped; line breaks and tabs stay."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first three, and how many more there are."""
    more = len(names) - 3
    return separator.join([*names[:3], *([f"and {more} more"] if more > 0 else [])])
