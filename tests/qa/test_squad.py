"""SQuAD files: what is read, and where one is malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import InputError
from helpers.qa import squad


def write_squad(folder: Path, document: Any) -> Path:
    path = folder / "squad.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def paragraph(context: Any, *questions: Any) -> dict[str, Any]:
    return {"context": context, "qas": list(questions)}


def question(key: Any, text: Any = "why?") -> dict[str, Any]:
    return {"id": key, "question": text, "answers": [{"text": "a", "answer_start": 0}]}


def articles(*paragraphs: list[Any]) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": each} for each in paragraphs]}


def test_read_squad(tmp_path: Path) -> None:
    document = articles(
        [paragraph("a b", question("1", "wer?"), question("2", " wo? ")), paragraph("c\u00e9")], [paragraph("a b", question("3"))]
    )
    for ascii_only in (True, False):
        path = write_squad(tmp_path, json.dumps(document, ensure_ascii=ascii_only).encode())
        passages, questions = squad.read(path)
        assert passages == ["a b", "cé", "a b"]
        assert questions == [
            squad.Question("1", "wer?", 0, "article 1, paragraph 1, question 1"),
            squad.Question("2", " wo? ", 0, "article 1, paragraph 1, question 2"),
            squad.Question("3", "why?", 2, "article 2, paragraph 1, question 1"),
        ]


def test_empty_texts_are_read(tmp_path: Path) -> None:
    """One of 10,000 questions does not keep the others from being answered."""
    document = articles([paragraph("", question("1", "wer?")), paragraph("a", question("2", ""), question("3", " \n"))])
    passages, questions = squad.read(write_squad(tmp_path, document))
    assert (passages, [q.text for q in questions]) == (["", "a"], ["wer?", "", " \n"])


def test_answers_are_parts_of_questions(tmp_path: Path) -> None:
    path = write_squad(tmp_path, articles([paragraph("a", {**question("1"), "answers": [{"text": "a"}, {"text": ""}]})]))
    [(_, asked)] = squad.paragraphs(path)
    [(key, each)] = asked
    assert (key, [(part.text("text"), part.place) for part in each.parts("answers")]) == (
        "1",
        [("a", "article 1, paragraph 1, question 1, answer 1"), ("", "article 1, paragraph 1, question 1, answer 2")],
    )


def test_read_squad_2(tmp_path: Path) -> None:
    impossible = {"id": "1", "question": "who?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "a"}]}
    document = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph("a", impossible, question("2"))]}]}
    passages, questions = squad.read(write_squad(tmp_path, document))
    assert (passages, [q.id for q in questions]) == (["a"], ["1", "2"])


GOOD = [paragraph("a", question("0"))]
NOT_TEXT: tuple[Any, ...] = (None, 5, [])
HALF = "a\ud83d"
NOT_A_LIST: tuple[Any, ...] = (None, {}, "a")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the file must have 'data', a list"),
        *[({"data": value}, "the file must have 'data', a list") for value in NOT_A_LIST],
        ({"data": ["t"]}, "article 1 must have 'paragraphs', a list"),
        *[({"data": [{"paragraphs": GOOD}, {"paragraphs": value}]}, "article 2 must have 'paragraphs'") for value in NOT_A_LIST],
        (articles(GOOD, [None]), "article 2, paragraph 1 must have 'qas', a list"),
        (articles([*GOOD, {"qas": []}]), "article 1, paragraph 2 must have 'context', text"),
        *[(articles([*GOOD, paragraph(value)]), "article 1, paragraph 2 must have 'context', text") for value in NOT_TEXT],
        (articles([*GOOD, {"context": "b"}]), "article 1, paragraph 2 must have 'qas', a list"),
        *[(articles([{"context": "b", "qas": v}]), "article 1, paragraph 1 must have 'qas', a list") for v in NOT_A_LIST],
        (articles(GOOD, [paragraph("b", "x")]), "article 2, paragraph 1, question 1 must have 'id', text"),
        *[(articles([paragraph("b", question(v))]), "article 1, paragraph 1, question 1 must have 'id', text") for v in NOT_TEXT],
        *[
            (articles([paragraph("b", question(v))]), "article 1, paragraph 1, question 1 must have 'id', text that is not empty")
            for v in ("", " \n")
        ],
        (
            articles(GOOD, [paragraph("b", question(HALF))]),
            "article 2, paragraph 1, question 1: 'id' is not valid Unicode, it has half a surrogate pair: 'a\\ud83d'",
        ),
        (articles([paragraph("b", question("1", HALF))]), "article 1, paragraph 1, question 1: 'question' is not valid Unicode"),
        (articles([paragraph(HALF)]), "article 1, paragraph 1: 'context' is not valid Unicode"),
        *[
            (
                articles(GOOD, [paragraph("b"), paragraph("b", question("1"), question("2", v))]),
                "article 2, paragraph 2, question 2 must have 'question', text",
            )
            for v in NOT_TEXT
        ],
        (
            articles(GOOD, [paragraph("b", question("1"), question("0"))]),
            "article 2, paragraph 1, question 2 repeats the id '0' of article 1, paragraph 1, question 1",
        ),
        (
            articles([paragraph("b", question("1"), question("1"))]),
            "article 1, paragraph 1, question 2 repeats the id '1' of article 1",
        ),
    ],
)
def test_read_squad_names_the_place(tmp_path: Path, document: Any, message: str) -> None:
    path = write_squad(tmp_path, document)
    with pytest.raises(InputError) as error:
        squad.read(path)
    assert str(error.value).startswith(f"SQuAD file {path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b'{\n  "data": [\n}', "is not JSON: line 3, column 1: "),
        (b'{"data": [', "is not JSON: line 1, column 11: "),
        (b"", "is not JSON: line 1, column 1: "),
        (b'{"data": "\xe9"}', "is not UTF-8 text (byte 10)"),
        (b'{"data": [], "data": []}', "is not JSON that can be read: it has 'data' twice in one object"),
        (b'{"data": ' + b"[" * 200_000, "is not JSON that can be read: it is nested too deeply"),
        (b'{"data": ' + b"1" * 5_000, "is not JSON that can be read: "),
        (b'{"data": \0}', "is not text: it has a NUL byte"),
        (b'\xef\xbb\xbf{"data": []}', "has no questions"),
        (b'{"data": []}', "has no questions"),
        (b'{"data": [{"paragraphs": [{"context": "a", "qas": []}]}]}', "has no questions"),
    ],
)
def test_read_squad_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "squad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        squad.read(path)
    assert str(error.value).startswith(f"SQuAD file {path} {message}")


def test_a_file_without_an_end() -> None:
    with pytest.raises(InputError, match=r"^SQuAD file /dev/zero is not text: it has a NUL byte$"):
        squad.read(Path("/dev/zero"))
