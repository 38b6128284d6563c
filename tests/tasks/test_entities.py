"""Entities against what Hugging Face's pipeline makes of the same logits, and windows against one brute force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tasks.entities import Entity, collect, grouped, of_tokens
from helpers.tasks.windows import covering
from helpers.tokenization import Template
from tests.pipelines import TAGS, model_of, pipeline, save
from tests.wordpieces import letters

TOKENIZER = letters()
LABELS = (*TAGS, "E-PER", "B-O", "I-", "B-B-X", "X-LOC", "O-")  # those of other schemes, and odd ones


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    return pipeline("token-classification", save(model_of("token-classification", LABELS), folder))


def check(found: Sequence[Entity], theirs: Sequence[dict[str, Any]], text: str) -> None:
    """Holds entities against the pipeline's."""
    assert [(e.label, e.start, e.end) for e in found] == [(e["entity_group"], e["start"], e["end"]) for e in theirs]
    assert [e.score for e in found] == pytest.approx([e["score"] for e in theirs], abs=1e-6)
    assert [e.text for e in found] == [text[e.start : e.end] for e in found]


def grouped_by_pipeline(tagger: Any, text: str, logits: np.ndarray) -> list[dict[str, Any]]:
    from transformers.pipelines.token_classification import AggregationStrategy

    encoding = tagger.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    outputs = {
        "logits": torch.from_numpy(np.pad(logits, ((1, 1), (0, 0))))[None],
        "sentence": text,
        "input_ids": torch.tensor([encoding["input_ids"]]),
        "offset_mapping": torch.tensor([encoding["offset_mapping"]]),
        "special_tokens_mask": torch.tensor([encoding["special_tokens_mask"]]),
    }
    return list(tagger.postprocess([outputs], AggregationStrategy.SIMPLE))


@given(text=st.text("abc .é", max_size=40), seed=st.integers(0, 2**32 - 1), kinds=st.sampled_from([3, 6, 12]))
@settings(max_examples=200)
def test_grouped(tagger: Any, text: str, seed: int, kinds: int) -> None:
    [tokens] = TOKENIZER([text])
    logits = np.random.default_rng(seed).standard_normal((len(tokens.ids), len(LABELS)), np.float32) * 2
    logits[:, kinds:] -= 20  # so that neighbours often have one label
    check(grouped(text, tokens.offsets, logits, LABELS), grouped_by_pipeline(tagger, text, logits), text)


def test_grouped_by_hand() -> None:
    text = "ab  c d, ef"
    tags = ["B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-LOC", "B-LOC"]  # of a ##b c d , e ##f
    logits = np.array([[4.0 * (label == tag) for label in TAGS] for tag in tags], np.float32)
    logits[0, 0] = logits[1, 0] = 2
    [tokens] = TOKENIZER([text])
    found = grouped(text, tokens.offsets, logits, TAGS)
    sure, less = np.exp(4) / (np.exp(4) + 5), np.exp(4) / (np.exp(4) + np.exp(2) + 4)
    assert [entity[:4] for entity in found] == [
        ("PER", "ab", 0, 2),
        ("PER", "c", 4, 5),
        ("LOC", ", e", 7, 10),
        ("LOC", "f", 10, 11),
    ]
    assert [entity.score for entity in found] == pytest.approx([less, sure, sure, sure])


# Windows

TEXTS = ["the cat sat on the mat. it was a mat of straw", "", "a b", "who sat where and why? nobody knows"]


@pytest.mark.parametrize("stride", [1, 3, 5, 100])
def test_each_token_is_read_where_it_has_its_best_context(stride: int) -> None:
    encoded = covering(TEXTS, TOKENIZER, Template(), 12, stride)
    outputs = [
        np.random.default_rng(i).standard_normal((window.length, 4), np.float32) for i, window in enumerate(encoded.windows)
    ]
    order = np.random.default_rng(0).permutation(len(outputs)).tolist()
    batches = [(part, np.concatenate([outputs[i] for i in part])) for part in (order[:1], order[1:5], order[5:])]
    found = dict(of_tokens(encoded, batches))
    assert {text: len(logits) for text, logits in found.items()} == {i: len(t.ids) for i, t in enumerate(TOKENIZER(TEXTS))}
    several = 0
    for text, logits in found.items():
        for token, row in enumerate(logits):
            showing = [(i, w) for i, w in enumerate(encoded.windows) if w.question == text and 0 <= token - w.offset < w.shown]
            several += len(showing) > 1
            best = max(
                showing,
                key=lambda each: (100 * min(token - each[1].offset, each[1].offset + each[1].shown - 1 - token)) + each[1].shown,
            )  # the first of equals
            assert row.tolist() == outputs[best[0]][1 + token - best[1].offset].tolist()
    assert bool(several) == (stride < 10)


def test_a_text_comes_with_its_last_window() -> None:
    encoded = covering(TEXTS[::3], TOKENIZER, Template(), 12, 5)
    own = sum(window.question == 0 for window in encoded.windows)
    assert 1 < own < len(encoded.windows) - 1
    drawn: list[int] = []

    def in_order() -> Any:
        for i, window in enumerate(encoded.windows):
            drawn.append(i)
            yield [i], np.zeros((window.length, len(TAGS)), np.float32)

    found = collect(encoded, in_order(), TAGS)
    assert (next(found), len(drawn)) == ((0, []), own)
    assert (next(found), len(drawn)) == ((1, []), len(encoded.windows))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers(value: float) -> None:
    encoded = covering(["a b"], TOKENIZER, Template(), 12, 5)
    logits = np.zeros((4, len(TAGS)), np.float32)
    logits[0] = logits[3] = value  # of special tokens, which nobody reads
    assert list(collect(encoded, [([0], logits)], TAGS)) == [(0, [])]
    logits[2, 1] = value
    with pytest.raises(RuntimeError, match="not numbers"):
        list(collect(encoded, [([0], logits)], TAGS))
