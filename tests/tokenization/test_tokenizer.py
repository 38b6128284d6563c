"""A tokenizer as text, and offsets without the spaces around words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import InputError
from helpers.families import TOKENIZERS
from helpers.tokenization import Tokenizer, read
from helpers.tokenization.tokenizer import trimmed
from helpers.tokenization.wordpiece import BERT
from tests.running import MODEL
from tests.texts import many


def test_to_json_and_back() -> None:
    tokenizer, _ = read(MODEL, BERT, TOKENIZERS)
    text = tokenizer.to_json()
    again = Tokenizer.from_json(text)
    assert again.to_json() == text
    assert (again.size, again.control) == (30522, ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]"))
    for one, other in zip(tokenizer(many(200)), again(many(200))):
        assert (one.ids.tolist(), one.offsets.tolist()) == (other.ids.tolist(), other.offsets.tolist())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"control": 3, "pipeline": ""}), json.dumps({"control": [], "pipeline": "{}"})]
)
def test_what_is_no_tokenizer(text: str) -> None:
    with pytest.raises(InputError, match=r"tokenizer") as error:
        Tokenizer.from_json(text)
    assert str(error.value).isprintable()


def test_special_tokens_that_are_not_there() -> None:
    tokenizer, _ = read(MODEL, BERT, TOKENIZERS)
    for name in ("[NONE]", "", "\ud800", "a" * 1000):
        with pytest.raises(InputError, match=r"^the tokenizer has no token ") as error:
            tokenizer.ids([name])
        assert len(str(error.value)) < 150


@settings(max_examples=200)
@given(text=st.text(st.sampled_from("ab \n\u3000\u00a0é")), data=st.data())
def test_trimmed(text: str, data: st.DataObject) -> None:
    """By brute force."""
    cut = st.integers(0, len(text))
    offsets = [sorted(pair) for pair in data.draw(st.lists(st.tuples(cut, cut), max_size=5))]
    found = trimmed(text, np.array(offsets, np.int32).reshape(-1, 2)).tolist()
    for (a, b), (begin, end) in zip(offsets, found):
        while text[a:b].strip() and text[a].isspace():
            a += 1
        while text[a:b].strip() and text[b - 1].isspace():
            b -= 1
        assert [begin, end] == [a, b]
