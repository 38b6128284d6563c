"""Tokens and offsets against Hugging Face's BERT tokenizer, and what a vocabulary may look like."""

from __future__ import annotations

import inspect
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast  # type: ignore[attr-defined, unused-ignore]

from helpers.commands.cli import FLAGS
from helpers.errors import InputError
from helpers.tokenization import SPECIAL, Tokenizer, check_vocab_size, is_lower_case, read_vocab
from tests.running import MODEL

MINILM = MODEL / "vocab.txt"
NAMED = (*SPECIAL, "[MASK]")
KINDS = ("uncased", "cased", "uncased letters", "cased letters")

AWKWARD = {
    "empty": "",
    "spaces": "   ",
    "line breaks": "one\ttwo\r\nthree\n\n four\u00a0five\u2028six\u3000seven",
    "CJK": "東京は日本の首都です。北京 is 中国's capital",
    "CJK beyond the basic plane": "a𠀀b 𪚥",
    "Hangul": "서울은 대한민국의 수도이다 " + unicodedata.normalize("NFD", "각"),
    "composed accents": unicodedata.normalize("NFC", "Ångström café naïve Škoda ệ"),
    "decomposed accents": unicodedata.normalize("NFD", "Ångström café naïve Škoda ệ"),
    "only accents": "\u0301 \u0301\u0302a\u0301",
    "case that grows": "İstanbul STRASSE straße ŐŰ ǅ ΣΊΣΥΦΟΣ",
    "emoji": "family 👩‍👩‍👧‍👦 flag 🇩🇪 wave 👋🏽 heart ❤️!",
    "controls": "a\x00b\x01 \x7f c\x80d\x1b[0m\ufffde",
    "zero width": "zero\u200bwidth \u200d join\u200cer \ufeffmark soft\u00adhyphen",
    "right to left": "שלום עולם مَرْحَبًا \u202eabc\u202c \u200fx",
    "a long word": "a" * 10_000,
    "words at the limit": "a" * 100 + " " + "b" * 101,
    "punctuation": "...,!?“quoted”—dash/ (a)[b]{c} $5.00 50% x_y a&b ¿qué? «non» ٪ ‰ ^`~|",
    "numbers": "1,234.5 ١٢٣ ⅷ ² ½ 10⁻⁹",
    "ligatures": "ﬁn ﬀ Ｆｕｌｌ ㎏ ㍿",
}
PIECES = sorted({c for text in AWKWARD.values() for c in text} | {" the ", " The ", "running", "ËÉ", "'s", ".."})


LETTERS = sorted({c for text in AWKWARD.values() for c in text if not c.isspace()})
VOCAB = read_vocab(MINILM)
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
        vocab = read_vocab(path)
        theirs = BertTokenizerFast(**{keyword: str(path)}, do_lower_case=lower_case)
        assert theirs.get_vocab() == vocab
        return Tokenizer(vocab, lower_case), theirs

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


def test_ids_of_the_markers() -> None:
    ours = Tokenizer({"[SEP]": 0, "[CLS]": 1, "a": 2, "[UNK]": 3, "[PAD]": 4}, True)
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
            assert read_vocab(path) == expected


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
        read_vocab(path)
    assert error.value.told(FLAGS).startswith(f"vocabulary {path} {message}")


def test_a_folder_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_vocab(tmp_path)


def numbered(count: int) -> dict[str, int]:
    return {str(i): i for i in range(count)}


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [
        (30522, 30522),
        (30522, 30528),
        (30522, 30592),
        (28996, 29056),
        (130, 136),
        (130, 192),
        (130, 256),
        (128, 128),
        (129, 129),
    ],
)
def test_an_embedding_may_be_rounded_up(tokens: int, rows: int) -> None:
    check_vocab_size(numbered(tokens), rows, Path("vocab.txt"))


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(30522, 30523), (129, 130), (30522, 30521), (130, 129), (130, 144), (130, 200), (130, 384), (128, 256), (128, 136)],
)
def test_an_embedding_of_another_size_is_refused(tokens: int, rows: int) -> None:
    with pytest.raises(InputError, match=f"v.txt has {tokens} tokens but the model's embedding {rows} rows"):
        check_vocab_size(numbered(tokens), rows, Path("v.txt"))


def test_lower_case_by_vocabulary(tmp_path: Path) -> None:
    vocab = {token: i for i, token in enumerate([*NAMED, "[unused1]", "a", "##b", "é", "ß", "中", "1"])}
    assert is_lower_case(vocab, tmp_path)
    assert is_lower_case(VOCAB, tmp_path)
    for token in ("Paris", "##B", "É"):
        assert not is_lower_case({**vocab, token: len(vocab)}, tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_lower_case_by_tokenizer_config(tmp_path: Path, told: bool) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": told}))
    assert is_lower_case({"a": 0}, tmp_path) is told
    assert is_lower_case({"A": 0}, tmp_path) is told


@pytest.mark.parametrize("content", [b"{}", b'{"do_lower_case": null}', b'{"do_lower_case": 0}', b"[]", b"{", b"\xff"])
def test_a_tokenizer_config_that_does_not_tell(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    assert is_lower_case({"a": 0}, tmp_path)
    assert not is_lower_case({"A": 0}, tmp_path)
