"""Windows over texts alone and pairs of texts, against what Hugging Face's tokenizer gives a model of the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.errors import InputError
from helpers.tasks.windows import covering, cut, share
from helpers.tokenization import Template
from tests.models import write_vocab
from tests.wordpieces import letters

TOKENIZER, BERT = letters(), Template()
TEXT = st.text("ab ?", max_size=25)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import transformers

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_vocab(folder / "vocab.txt")
    return transformers.BertTokenizer.from_pretrained(folder)


def check(encoded: Any, expected: Any) -> None:
    """Holds the windows against encodings of Hugging Face's."""
    batch = encoded.batch(encoded.windows)
    assert np.split(batch.input_ids, batch.cu_seqlens[1:-1]) == [pytest.approx(ids) for ids in expected["input_ids"]]
    assert np.split(batch.segment_ids, batch.cu_seqlens[1:-1]) == [pytest.approx(ids) for ids in expected["token_type_ids"]]


@given(texts=st.lists(TEXT, min_size=1, max_size=4), length=st.integers(3, 40))
@settings(max_examples=100)
def test_texts_alone(theirs: Any, texts: list[str], length: int) -> None:
    encoded, longer = cut(texts, None, TOKENIZER, BERT, length)
    check(encoded, theirs(texts, truncation=True, max_length=length))
    assert longer == sum(len(ids) > length for ids in theirs(texts)["input_ids"])


@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), length=st.integers(4, 50))
@example([("a" * 9, "a" * 9)], 10)
@example([("a" * 9, "a" * 3)], 4)
@settings(max_examples=200)
def test_pairs(theirs: Any, pairs: list[tuple[str, str]], length: int) -> None:
    firsts, seconds = zip(*pairs)
    encoded, longer = cut(firsts, seconds, TOKENIZER, BERT, length)
    check(encoded, theirs(list(firsts), list(seconds), truncation="longest_first", max_length=length))
    assert longer == sum(len(ids) > length for ids in theirs(list(firsts), list(seconds))["input_ids"])


def test_share_by_hand() -> None:
    assert [share(2, 9, 20), share(2, 9, 8), share(9, 2, 8), share(9, 5, 8), share(0, 9, 8)] == [
        (2, 9),
        (2, 6),
        (6, 2),
        (4, 4),
        (0, 8),
    ]
    assert [share(5, 5, 7), share(5, 4, 7), share(9, 9, 1)] == [(3, 4), (4, 3), (0, 1)]


def test_the_template_of_another_family() -> None:
    template = Template(("[CLS]", "[MASK]"), ("[SEP]", "[SEP]"), ("[SEP]",), 0)
    cls, mask, sep, a, b = (TOKENIZER.ids([token])[0] for token in ("[CLS]", "[MASK]", "[SEP]", "a", "b"))
    alone, _ = cut(["a b"], None, TOKENIZER, template, 9)
    assert alone.batch(alone.windows).input_ids.tolist() == [cls, mask, a, b, sep]
    beside, longer = cut(["a"], ["b b b"], TOKENIZER, template, 8)
    assert beside.batch(beside.windows).input_ids.tolist() == [cls, mask, a, sep, sep, b, b, sep]
    assert longer == 1


@given(texts=st.lists(TEXT, min_size=1, max_size=3), length=st.integers(3, 12), stride=st.integers(1, 15))
@settings(max_examples=100)
def test_covering(texts: list[str], length: int, stride: int) -> None:
    encoded = covering(texts, TOKENIZER, BERT, length, stride)
    cls, sep = TOKENIZER.ids(["[CLS]", "[SEP]"])
    tokens = [text.ids.tolist() for text in TOKENIZER(texts)]
    seen: list[set[int]] = [set() for _ in texts]
    for window in encoded.windows:
        batch = encoded.batch([window])
        shown = tokens[window.question][window.offset : window.offset + window.shown]
        assert batch.input_ids.tolist() == [cls, *shown, sep]
        assert not batch.segment_ids.any() and len(batch.input_ids) <= length
        assert window.offset % min(stride, length - 2) == 0
        seen[window.question] |= set(range(window.offset, window.offset + window.shown))
    assert seen == [set(range(len(ids))) for ids in tokens]
    assert {window.question for window in encoded.windows} == set(range(len(texts)))  # one without tokens has a window too


@pytest.mark.parametrize(("pairs", "length", "special"), [(None, 2, 2), (["a"], 3, 3)])
def test_no_room(pairs: list[str] | None, length: int, special: int) -> None:
    says = f"^a window of {length} tokens holds nothing beside its {special} separators: raise sequence_length$"
    with pytest.raises(InputError, match=says):
        cut(["a"], pairs, TOKENIZER, BERT, length)
    if pairs is None:
        with pytest.raises(InputError, match=says):
            covering(["a"], TOKENIZER, BERT, length, 1)


def test_texts_that_are_no_unicode() -> None:
    with pytest.raises(InputError, match=r"^text 2 is not valid Unicode"):
        cut(["a", "\udcff"], None, TOKENIZER, BERT, 9)
    with pytest.raises(InputError, match=r"^pair 1 is not valid Unicode"):
        cut(["a"], ["\udcff"], TOKENIZER, BERT, 9)
    with pytest.raises(InputError, match=r"^text 1 is not valid Unicode"):
        covering(["\ud83d"], TOKENIZER, BERT, 9, 1)
