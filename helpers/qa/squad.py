"""SQuAD files (Rajpurkar et al., 2016, arXiv:1606.05250): their passages and questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import InputError


@dataclass(frozen=True)
class Question:
    """One question; `passage` indexes the passages beside it."""

    id: str
    text: str
    passage: int


def read(path: Path) -> tuple[list[str], list[Question]]:
    """All passages and questions of a SQuAD 1.1 or 2.0 file.

    Raises:
        InputError: the file is missing or malformed, lacks a field, repeats an id, or has an empty passage or
            question; the message says which article, paragraph and question.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"SQuAD file {path} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"SQuAD file {path} is not UTF-8 text (byte {e.start})") from e
    except json.JSONDecodeError as e:
        raise InputError(f"SQuAD file {path} is not JSON: line {e.lineno}, column {e.colno}: {e.msg}") from e

    def member(parent: Any, key: str, kind: type, where: str) -> Any:
        value = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
            wanted = "text that is not empty" if kind is str else "a list"
            raise InputError(f"SQuAD file {path}: {where} must have {key!r}, {wanted}")
        return value

    passages: list[str] = []
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for a, article in enumerate(member(document, "data", list, "the file"), 1):
        for p, paragraph in enumerate(member(article, "paragraphs", list, f"article {a}"), 1):
            where = f"article {a}, paragraph {p}"
            passages.append(member(paragraph, "context", str, where))
            for q, question in enumerate(member(paragraph, "qas", list, where), 1):
                place = f"{where}, question {q}"
                key = member(question, "id", str, place)
                if key in seen:
                    raise InputError(f"SQuAD file {path}: {place} repeats the id {key!r} of {seen[key]}")
                seen[key] = place
                questions.append(Question(key, member(question, "question", str, place), len(passages) - 1))
    if not questions:
        raise InputError(f"SQuAD file {path} has no questions")
    return passages, questions
