"""Tokens and offsets against Hugging Face's BERT tokenizer, and what a vocabulary may look like."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast  # type: ignore[attr-defined, unused-ignore]

from helpers.commands.flags import FLAGS
from helpers.errors import InputError
from helpers.families import TOKENIZERS
from helpers.tokenization import Tokenizer, check_size, read
from helpers.tokenization.wordpiece import BERT, SPECIAL, is_lower_case, read_vocab
from tests.running import MODEL
from tests.texts import AWKWARD, PIECES

MINILM = MODEL / "vocab.txt"
REQUIRED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
NAMED = tuple(SPECIAL.values())
KINDS = ("uncased", "cased", "uncased letters", "cased letters")

LETTERS = sorted({c for text in AWKWARD.values() for c in text if not c.isspace() and c != "\0"})
VOCAB = read_vocab(MINILM, REQUIRED)
SPELLED = {i: token[2:] if token.startswith("##") and len(token) > 2 else token for token, i in VOCAB.items()}
CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32)))

Pairs = dict[str, tuple[Tokenizer, Any]]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Our tokenizer and Hugging Face's, for MiniLM's vocabulary and for one that spells all that the awkward texts hold.

    Where a text can be spelled, the offsets inside its words count.
    """
    spelling = tmp_path_factory.mktemp("spelling") / "vocab.txt"
    spelling.write_text("\n".join([*NAMED, *LETTERS, *(f"##{c}" for c in LETTERS)]), encoding="utf-8")
    keyword = "vocab" if "vocab" in inspect.signature(BertTokenizerFast.__init__).parameters else "vocab_file"

    def pair(path: Path, lower_case: bool) -> tuple[Tokenizer, Any]:
        folder = tmp_path_factory.mktemp("model")
        (folder / "vocab.txt").write_bytes(path.read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
        theirs = BertTokenizerFast(**{keyword: str(path)}, do_lower_case=lower_case)
        assert theirs.get_vocab() == read_vocab(path, REQUIRED)
        return read(folder, BERT, TOKENIZERS)[0], theirs

    return {
        "uncased": pair(MINILM, True),
        "cased": pair(MINILM, False),
        "uncased letters": pair(spelling, True),
        "cased letters": pair(spelling, False),
    }


def check(pair: tuple[Tokenizer, Any], text: str) -> None:
    """Holds ours against theirs over a text that spells no special token, and every offset against the text."""
    ours, theirs = pair
    [tokens] = ours([text])
    expected = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokens.ids.tolist() == expected["input_ids"]
    assert [tuple(pair) for pair in tokens.offsets.tolist()] == expected["offset_mapping"]
    assert tokens.offsets.shape == (len(tokens.ids), 2)
    assert all(0 <= a < b <= len(text) for a, b in tokens.offsets.tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_awkward_text(pairs: Pairs, kind: str, text: str) -> None:
    check(pairs[kind], text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text(pairs: Pairs, kind: str, text: str) -> None:
    if not any(token in text for token in NAMED):
        check(pairs[kind], text)


@given(text=st.text(st.characters(max_codepoint=126)))
@example("The cat sat, unbelievably.")
@settings(max_examples=100)
def test_slices_of_plain_text_spell_their_tokens(pairs: Pairs, text: str) -> None:
    """Offsets by what they are for: the slice is the token, but for case."""
    [tokens] = pairs["uncased"][0]([text])
    for i, (a, b) in zip(tokens.ids.tolist(), tokens.offsets.tolist()):
        if i != VOCAB["[UNK]"]:
            assert text[a:b].lower().translate(CONTROL) == SPELLED[i]


def test_a_batch_is_its_texts_one_by_one(pairs: Pairs) -> None:
    ours = pairs["uncased"][0]
    texts = list(AWKWARD.values())
    for tokens, text in zip(ours(texts), texts):
        [alone] = ours([text])
        assert (tokens.ids.tolist(), tokens.offsets.tolist()) == (alone.ids.tolist(), alone.offsets.tolist())
        assert tokens.ids.dtype == tokens.offsets.dtype == "int32"
    assert ours([]) == []


def test_an_overlong_word_is_one_unknown_token(pairs: Pairs) -> None:
    [tokens] = pairs["uncased"][0](["x " + "a" * 10_000 + " x"])
    assert tokens.ids.tolist() == [VOCAB["x"], VOCAB["[UNK]"], VOCAB["x"]]
    assert tokens.offsets.tolist() == [[0, 1], [2, 10_002], [10_003, 10_004]]


# Special tokens that a text spells out


def test_special_tokens_in_a_text_are_text(pairs: Pairs) -> None:
    [tokens] = pairs["uncased"][0](["a[SEP]b"])
    names = {i: token for token, i in VOCAB.items()}
    assert [names[i] for i in tokens.ids.tolist()] == ["a", "[", "sep", "]", "b"]
    assert tokens.offsets.tolist() == [[0, 1], [1, 2], [2, 5], [5, 6], [6, 7]]


@pytest.mark.parametrize("token", NAMED)
def test_a_spelled_special_token_never_has_its_id(pairs: Pairs, token: str) -> None:
    theirs = pairs["uncased"][1]
    assert VOCAB[token] in theirs(token, add_special_tokens=False)["input_ids"]  # or this test would show nothing
    for text in (token, f"x{token}y", f" {token} ", token * 3, f"[{token}]", token.lower(), f"{token}\u0301"):
        [tokens] = pairs["uncased"][0]([text])
        assert len(tokens.ids) > 2
        assert VOCAB[token] not in tokens.ids


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(text=st.lists(st.sampled_from(NAMED) | st.text(max_size=3)).map("".join))
def test_no_text_holds_a_special_id(pairs: Pairs, kind: str, text: str) -> None:
    ours, theirs = pairs[kind]
    special = theirs.convert_tokens_to_ids([token for token in NAMED if token != "[UNK]"])
    [tokens] = ours([text])
    assert len(special) == 4
    assert not set(special) & set(tokens.ids.tolist())


def test_ids_of_the_markers(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[SEP]\n[CLS]\na\n[UNK]\n[PAD]\n")
    ours, _ = read(tmp_path / "vocab.txt", BERT, TOKENIZERS)
    assert ours.ids(["[PAD]", "[CLS]", "[SEP]"]) == [4, 1, 0]
    assert ours.ids(("[SEP]", "[SEP]")) == [0, 0]
    assert ours.ids(()) == []


# Vocabularies


def test_read_vocab(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    expected = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "é": 4, "##b": 5, "\u2028": 6, "#": 7}
    for ending in ("\n", "\r\n"):
        for last in ("", ending):
            path.write_bytes((ending.join(expected) + last).encode())
            assert read_vocab(path, REQUIRED) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; name it with -v"),
        (b"[PAD]\n[UNK]\n\xff\n", "is not UTF-8 text (byte 12)"),
        (b"[PAD]\n[UNK]\na\n[CLS]\n[SEP]\nb\na\n", "repeats 'a' in line 7, first in line 3"),
        (b"[PAD]\r\na\r\na\r\n", "repeats 'a' in line 3, first in line 2"),
        (b"[PAD]\n[CLS]\na\n", "lacks [UNK], [SEP]: "),
        (b"", "lacks [PAD], [UNK], [CLS], [SEP]: "),
    ],
)
def test_read_vocab_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_vocab(path, REQUIRED)
    assert error.value.told(FLAGS).startswith(f"vocabulary {path} {message}")


def test_a_folder_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_vocab(tmp_path, REQUIRED)


@pytest.mark.parametrize("rows", [30522, 30523, 30528, 60_000])
def test_an_embedding_may_have_more_rows(rows: int) -> None:
    """For training's sake, or for tokens that were never used."""
    check_size(read(MODEL, BERT, TOKENIZERS)[0], rows, "v.txt")


@pytest.mark.parametrize("rows", [30521, 100])
def test_an_embedding_of_fewer_rows_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=f"^tokenizer v.txt has 30522 tokens but the model's embedding {rows} rows: "):
        check_size(read(MODEL, BERT, TOKENIZERS)[0], rows, "v.txt")


# Lower case


def test_lower_case_by_vocabulary() -> None:
    vocab = [*NAMED, "[unused1]", "<S>", "<T>", "a", "##b", "é", "ß", "中", "1", "x1"]
    assert is_lower_case(vocab)
    assert is_lower_case(VOCAB)
    for token in ("Paris", "##B", "É"):
        assert not is_lower_case([*vocab, token])


def test_a_chinese_vocabulary(tmp_path: Path) -> None:
    """Google's is lower-case, and has <S> and <T>."""
    tokens = [*NAMED, "<S>", "<T>", "由", "tensorrt", "nvidia", "##rt"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    [found] = read(tmp_path, BERT, TOKENIZERS)[0](["TensorRT由NVIDIA"])
    assert [tokens[i] for i in found.ids] == ["tensorrt", "由", "nvidia"]


@pytest.mark.parametrize("told", [True, False])
def test_lower_case_by_tokenizer_config(tmp_path: Path, told: bool) -> None:
    tokens = [*NAMED, "paris", "Paris"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": told}))
    [found] = read(tmp_path, BERT, TOKENIZERS)[0](["Paris"])
    assert [tokens[i] for i in found.ids] == ["paris" if told else "Paris"]


@pytest.mark.parametrize("content", ["{}", '{"do_lower_case": null}'])
def test_a_tokenizer_config_that_does_not_tell(tmp_path: Path, content: str) -> None:
    tokens = [*NAMED, "paris", "Paris"]  # cased, by its vocabulary
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "tokenizer_config.json").write_text(content)
    [found] = read(tmp_path, BERT, TOKENIZERS)[0](["Paris"])
    assert [tokens[i] for i in found.ids] == ["Paris"]
