"""Windows: a question and as much of its passage as a model's sequence holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from helpers.errors import InputError
from helpers.layouts import Batch, bounds_of
from helpers.tokenization import Template, Tokenizer, Tokens


@dataclass(frozen=True)
class Options:
    """How texts are read and questions asked; lengths count tokens. Defaults are those of BERT's own treatment of SQuAD.

    Args:
        sequence_length: of the longest window; None for the engine's.
        doc_stride: from the start of one window to that of the next.
        top_k: candidates that are kept of each question; up to 20 it changes neither them nor their probabilities.
        handle_impossible_answer: whether a passage may hold no answer (SQuAD 2.0).
        null_threshold: how much better that must score than the best candidate to be the answer.

    Raises:
        InputError: a length or a number of candidates is none, or the threshold is no finite number.
    """

    sequence_length: int | None = None
    doc_stride: int = 128
    max_question_len: int = 64
    max_answer_len: int = 30
    top_k: int = 20
    handle_impossible_answer: bool = False
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_question_len", "max_answer_len", "top_k"):
            check_count(name, getattr(self, name))
        if self.sequence_length is not None:
            check_count("sequence_length", self.sequence_length)
        value = self.null_threshold
        if not (isinstance(value, Real) and -math.inf < value < math.inf):
            raise InputError(f"null_threshold must be a finite number, not {value!r:.60}")

    @property
    def searched(self) -> int:
        """Candidates that are looked for, and share a probability of 1."""
        return max(self.top_k, Options.top_k)


def check_count(name: str, value: Any) -> None:
    """Raises InputError where a value is no whole number from 1."""
    if not (isinstance(value, (int, np.integer)) and value > 0):
        raise InputError(f"{name} must be a whole number from 1, not {value!r:.60}")


class Window(NamedTuple):
    """Special tokens, the question, special tokens, a part of the passage, special tokens. All but `question` count tokens.

    For a text alone see tasks.windows.
    """

    question: int  # index of the question
    offset: int  # of the passage's first token that the window shows
    first: int  # where that token stands in the window
    shown: int  # tokens of the passage
    length: int  # of the window


@dataclass(frozen=True)
class Encoded:
    """Tokenized passages and questions, and the windows that cover them, those of one question side by side."""

    texts: Sequence[str]  # the passages as they were given
    passages: Sequence[Tokens]
    questions: Sequence[Tokens]
    passage_of: Sequence[int]  # question → passage
    windows: list[Window]
    template: Template
    tokenizer: Tokenizer

    def siblings(self) -> dict[int, list[int]]:
        """Question → the indexes of its windows."""
        found: dict[int, list[int]] = {}
        for i, window in enumerate(self.windows):
            found.setdefault(window.question, []).append(i)
        return found

    def wordless(self) -> list[int]:
        """The questions that have no words, or whose passages have none: they have no windows."""
        words = [len(tokens.ids) for tokens in self.passages]
        return [i for i, tokens in enumerate(self.questions) if not (len(tokens.ids) and words[self.passage_of[i]])]

    def batch(self, windows: Sequence[Window]) -> Batch:
        """Lays windows out end to end."""
        before, between, after = (np.array(self.tokenizer.ids(tokens), np.int32) for tokens in self.template[:3])
        ids: list[np.ndarray] = []
        for window in windows:
            passage = self.passages[self.passage_of[window.question]].ids
            shown = passage[window.offset : window.offset + window.shown]
            ids += (before, self.questions[window.question].ids, between, shown, after)
        segments = (0, self.template.passage_segment)
        shapes = chain.from_iterable((window.first, window.length - window.first) for window in windows)
        return Batch(
            np.concatenate(ids),
            np.repeat(np.tile(np.array(segments, np.int32), len(windows)), list(shapes)),
            bounds_of([window.length for window in windows]),
        )


def encode(
    passages: Sequence[str],
    questions: Sequence[str],
    passage_of: Sequence[int],
    tokenizer: Tokenizer,
    template: Template,
    options: Options,
    names: Sequence[str] = (),
) -> Encoded:
    """Tokenizes and windows questions; each question keeps its first `max_question_len` tokens.

    Args:
        options: with the sequence length.
        names: of the questions in messages; their numbers, where it is empty.

    Raises:
        InputError: a passage or question is no Unicode, or a question leaves the passage no room.
    """
    assert options.sequence_length
    check_unicode("passage", passages)
    check_unicode("question", questions)
    passage_tokens, question_tokens = tokenizer(passages), tokenizer(questions)
    question_tokens = [tokens._replace(ids=tokens.ids[: options.max_question_len]) for tokens in question_tokens]
    encoded = Encoded(passages, passage_tokens, question_tokens, passage_of, [], template, tokenizer)
    wordless = set(encoded.wordless())
    special = sum(map(len, template[:3]))
    for i, tokens in enumerate(question_tokens):
        if i in wordless:
            continue
        if len(tokens.ids) + special + 1 > options.sequence_length:
            raise InputError(
                f"question {names[i] if names else i + 1} has {len(tokens.ids)} tokens, which with {special} separators "
                f"leaves no room for the passage in a window of {options.sequence_length}",
                "shorten it, lower {max_question_len} or raise {sequence_length}",
            )
        shown = len(passage_tokens[passage_of[i]].ids)
        encoded.windows.extend(make_windows(i, len(tokens.ids), shown, template, options.sequence_length, options.doc_stride))
    return encoded


def check_words(encoded: Encoded, questions: Sequence[str]) -> None:
    """Raises InputError where a question, or its passage, has no words."""
    for i in encoded.wordless():
        if not len(encoded.questions[i].ids):
            raise InputError(f"question {i + 1} has no words: {questions[i]!r:.60}")
        passage = encoded.passage_of[i]
        raise InputError(f"passage {passage + 1} has no words: {encoded.texts[passage]!r:.60}")


def check_unicode(kind: str, texts: Sequence[str]) -> None:
    """Raises InputError where a text is one that no file can hold."""
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise InputError(f"{kind} {i + 1} is not valid Unicode, it has half a surrogate pair: {text!r:.60}") from e


def make_windows(
    question: int, question_tokens: int, passage_tokens: int, template: Template, sequence_length: int, doc_stride: int
) -> list[Window]:
    """The windows over one passage. They start `doc_stride` tokens apart, closer where less than that fits.

    The caller sees to it that a window has room for at least one token of the passage.
    """
    first = len(template.before) + question_tokens + len(template.between)
    room = sequence_length - first - len(template.after)
    step = min(doc_stride, room)
    last = max(0, -(-(passage_tokens - room) // step)) * step

    def window(offset: int) -> Window:
        shown = min(room, passage_tokens - offset)
        return Window(question, offset, first, shown, first + shown + len(template.after))

    return [window(offset) for offset in range(0, last + 1, step)]
