"""SQuAD files (Rajpurkar et al., 2016, arXiv:1606.05250): their passages, questions and annotated answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from helpers import reading
from helpers.errors import InputError

PARTS = {"data": "article", "paragraphs": "paragraph", "qas": "question", "answers": "answer"}  # a list → one of it


@dataclass(frozen=True)
class Question:
    """One question; `passage` indexes the passages beside it, and `place` is its own in the file."""

    id: str
    text: str
    passage: int
    place: str


class Part(NamedTuple):
    """What a SQuAD file has in some place, which messages name."""

    value: Any
    path: Path
    place: str

    def member(self, key: str, kind: type, wanted: str) -> Any:
        """Raises InputError where it is missing, or of another kind."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        if not isinstance(value, kind):
            raise InputError(f"SQuAD file {self.path}: {self.place or 'the file'} must have {key!r}, {wanted}")
        return value

    def parts(self, key: str) -> Iterator[Part]:
        """Those of a list. Raises InputError as `member`."""
        for number, value in enumerate(self.member(key, list, "a list"), 1):
            yield Part(value, self.path, f"{self.place}, {PARTS[key]} {number}".lstrip(", "))

    def text(self, key: str) -> str:
        """Raises InputError as `member`, or where the text is one that no file can hold."""
        value: str = self.member(key, str, "text")
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise InputError(
                f"SQuAD file {self.path}: {self.place}: {key!r} is not valid Unicode, it has half a surrogate pair: {value!r:.60}"
            ) from e
        return value


def paragraphs(path: Path) -> Iterator[tuple[Part, list[tuple[str, Part]]]]:
    """The paragraphs of a SQuAD 1.1 or 2.0 file, each with its questions by their ids.

    Raises:
        InputError: the file is missing, malformed or without questions; or an id is empty, repeated or no Unicode. The
            message says which article, paragraph and question.
    """
    seen: dict[str, str] = {}
    for article in Part(reading.read_json(path, "SQuAD file", reading.LARGE), path, "").parts("data"):
        for paragraph in article.parts("paragraphs"):
            asked = [(question.text("id"), question) for question in paragraph.parts("qas")]
            for key, question in asked:
                if not key.strip():
                    raise InputError(f"SQuAD file {path}: {question.place} must have 'id', text that is not empty")
                if key in seen:
                    raise InputError(f"SQuAD file {path}: {question.place} repeats the id {key!r:.60} of {seen[key]}")
                seen[key] = question.place
            yield paragraph, asked
    if not seen:
        raise InputError(f"SQuAD file {path} has no questions")


def read(path: Path) -> tuple[list[str], list[Question]]:
    """All passages and questions of a SQuAD file, of which some may be empty.

    Raises:
        InputError: as `paragraphs`, or a passage or question is missing or no Unicode.
    """
    passages: list[str] = []
    questions: list[Question] = []
    for paragraph, asked in paragraphs(path):
        passages.append(paragraph.text("context"))
        questions += [Question(key, each.text("question"), len(passages) - 1, each.place) for key, each in asked]
    return passages, questions
