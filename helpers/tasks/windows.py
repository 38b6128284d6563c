"""Windows over texts alone, each a passage after an empty question, and over pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.errors import InputError
from helpers.qa.windows import Encoded, Window, check_unicode, make_windows
from helpers.tokenization import Template, Tokenizer, Tokens

NOTHING = Tokens(np.zeros(0, np.int32), np.zeros((0, 2), np.int32))


def covering(texts: Sequence[str], tokenizer: Tokenizer, template: Template, sequence_length: int, doc_stride: int) -> Encoded:
    """Tokenizes texts and covers all of each with windows, which start `doc_stride` tokens apart.

    Raises:
        InputError: a text is not valid Unicode, or a window has room for none.
    """
    check_unicode("text", texts)
    template = alone(template)
    room_of(template, sequence_length)
    tokens = tokenizer(texts)
    windows = [
        window
        for i, text in enumerate(tokens)
        for window in make_windows(i, 0, len(text.ids), template, sequence_length, doc_stride)
    ]
    return Encoded(texts, tokens, [NOTHING] * len(texts), range(len(texts)), windows, template, tokenizer)


def cut(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Tokenizer, template: Template, sequence_length: int
) -> tuple[Encoded, int]:
    """Tokenizes texts, or pairs of them, one window each, and counts those that it does not hold whole.

    Where a pair does not fit, the longer text is cut, to the shorter one's length at most; then both alike.

    Raises:
        InputError: a text is not valid Unicode, or a window has room for none.
    """
    check_unicode("text", texts)
    firsts, seconds = [NOTHING] * len(texts), tokenizer(texts)
    if pairs is None:
        template = alone(template)
    else:
        check_unicode("pair", pairs)
        firsts, seconds = seconds, tokenizer(pairs)
    room = room_of(template, sequence_length)
    windows: list[Window] = []
    longer = 0
    for i, (first, second) in enumerate(zip(firsts, seconds)):
        before, shown = share(len(first.ids), len(second.ids), room)
        begin = len(template.before) + before + len(template.between)
        windows.append(Window(i, 0, begin, shown, begin + shown + len(template.after)))
        firsts[i] = first._replace(ids=first.ids[:before])
        longer += len(first.ids) + len(second.ids) > room
    shown_texts = texts if pairs is None else pairs
    return Encoded(shown_texts, seconds, firsts, range(len(texts)), windows, template, tokenizer), longer


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """The tokens of `room` that each of two texts gets: the shorter one up to half of them, the longer one the rest."""
    shorter = min(first, second, room // 2)
    longer = min(max(first, second), room - shorter)
    return (shorter, longer) if first <= second else (longer, shorter)


def alone(template: Template) -> Template:
    """A text's window where it has no other beside it."""
    return template._replace(between=(), passage_segment=0)


def room_of(template: Template, sequence_length: int) -> int:
    """The tokens of texts that a window holds. Raises InputError where it holds none."""
    special = sum(map(len, template[:3]))
    if sequence_length <= special:
        raise InputError(
            f"a window of {sequence_length} tokens holds nothing beside its {special} separators", "raise {sequence_length}"
        )
    return sequence_length - special
