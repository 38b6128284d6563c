"""ONNX models: packed ones against padded ones of the same weights, and what lies in the padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.layouts import Batch, Packed, Padded, Profile, bounds_of
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.scheduling import schedule
from helpers.sites import bert_sites
from helpers.weights import BertWeights
from tests.batches import alone, of_lengths, onnx_blob, run, sequences, session
from tests.models import small_config, small_tensors, write_vocab

LONGEST = 200
PROFILES = [Profile(1, LONGEST), Profile(4, LONGEST)]  # packed, up to 800 tokens of 12 sequences
PADDED = [Profile(12, LONGEST)]
CLOSE = 1e-5
CONFIG = small_config(max_position_embeddings=LONGEST)
# Large enough for attention to prefer some tokens over others, and so for a token of a neighbour to show.
WEIGHTS = BertWeights.from_tensors(small_tensors(max_position_embeddings=LONGEST))

# No more than 12 sequences of 800 tokens
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) <= 800)
SEEDS = st.integers(0, 2**32 - 1)


class Pair(NamedTuple):
    padded: OnnxRuntimeSession
    packed: OnnxRuntimeSession
    vocab_file: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "padded.engine").write_bytes(onnx_blob(WEIGHTS, CONFIG, PADDED))
    (folder / "packed.engine").write_bytes(onnx_blob(WEIGHTS, CONFIG, PROFILES, packed=True))
    write_vocab(folder / "vocab.txt")
    padded, packed = (OnnxRuntimeSession(folder / f"{name}.engine") for name in ("padded", "packed"))
    return Pair(padded, packed, folder / "vocab.txt")


def check_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


# Packed equals padded


def test_the_pair(pair: Pair) -> None:
    assert isinstance(pair.padded.layout, Padded)
    assert isinstance(pair.packed.layout, Packed)
    assert pair.packed.layout.profiles == PROFILES
    assert run(pair.padded, of_lengths([LONGEST], CONFIG)).std() > 1000 * CLOSE  # so that equal means something


@given(lengths=LENGTHS, seed=SEEDS)
@example([1], 0)
@example([1] * 12, 1)
@example([LONGEST], 2)
@example([LONGEST] * 4, 3)  # at exactly the budget, in the fewest sequences
@example([LONGEST, LONGEST, LONGEST, 64, 64, 64, 2, 1, 1, 1, 1, 2], 4)  # and in the most
@example([1, LONGEST, 1, 65, 64], 5)
@settings(max_examples=40)
def test_packed_equals_padded(pair: Pair, lengths: list[int], seed: int) -> None:
    batch = of_lengths(lengths, CONFIG, seed)
    logits = run(pair.packed, batch)
    assert logits.shape == (sum(lengths), 2)
    check_close(logits, run(pair.padded, batch))


@given(lengths=LENGTHS, seed=SEEDS)
@settings(max_examples=15)
def test_a_sequence_does_not_see_its_neighbours(pair: Pair, lengths: list[int], seed: int) -> None:
    batch = of_lengths(lengths, CONFIG, seed)
    logits = sequences(run(pair.packed, batch), batch)
    order = np.random.default_rng(seed).permutation(len(lengths))
    ids, segments = (
        np.concatenate([sequences(array, batch)[i] for i in order]) for array in (batch.input_ids, batch.segment_ids)
    )
    shuffled = Batch(ids, segments, bounds_of([lengths[i] for i in order]))
    for i, found in zip(order, sequences(run(pair.packed, shuffled), shuffled)):
        check_close(found, logits[i])
    for i, found in enumerate(pair.packed.stream(alone(batch, i) for i in range(len(lengths)))):
        check_close(found, logits[i])


def test_a_sequence_starts_at_its_own_first_position(pair: Pair) -> None:
    """Two equal sequences have equal logits, wherever in the batch they lie; and segments count."""
    one = of_lengths([30], CONFIG, 6)
    both = Batch(np.tile(one.input_ids, 2), np.tile(one.segment_ids, 2), bounds_of([30, 30]))
    first, second = sequences(run(pair.packed, both), both)
    check_close(first, second)
    other = both._replace(segment_ids=np.concatenate([one.segment_ids, 1 - one.segment_ids]))
    same, changed = sequences(run(pair.packed, other), other)
    check_close(same, first)
    assert abs(changed - second).max() > 1000 * CLOSE


def test_batches_come_back_in_order(pair: Pair) -> None:
    batches = [of_lengths(lengths, CONFIG, i) for i, lengths in enumerate(([7, 200], [1], [200] * 4, [64, 65, 3], [12] * 12))]
    found, expected = (list(session.stream(batches)) for session in (pair.packed, pair.padded))
    assert len(found) == len(expected) == len(batches)
    for packed, padded in zip(found, expected):
        check_close(packed, padded)


@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=40), batch_size=st.none() | st.integers(1, 12))
@settings(max_examples=15)
def test_scheduled_sequences_have_the_logits_that_they_have_alone(pair: Pair, lengths: list[int], batch_size: int | None) -> None:
    ones = [of_lengths([length], CONFIG, i) for i, length in enumerate(lengths)]
    batches = schedule(lengths, pair.packed.layout, batch_size)
    parts = [
        Batch(
            np.concatenate([ones[i].input_ids for i in indexes]),
            np.concatenate([ones[i].segment_ids for i in indexes]),
            bounds_of([lengths[i] for i in indexes]),
        )
        for indexes in batches
    ]
    found = {
        i: logits
        for indexes, part, whole in zip(batches, parts, pair.packed.stream(parts))
        for i, logits in zip(indexes, sequences(whole, part))
    }
    assert sorted(found) == list(range(len(lengths)))
    for i, logits in enumerate(pair.padded.stream(ones)):
        check_close(found[i], logits)


def test_answers(pair: Pair) -> None:
    """From questions to answers, with windows of many lengths, several of them a question."""
    padded, packed = (Reader(session, None, pair.vocab_file) for session in (pair.padded, pair.packed))
    generator = np.random.default_rng(8)
    passages = ["".join(generator.choice(list("abcdefgh    "), size)) + "z" for size in (3, 20, 90, 150, 400, 900)]
    questions = [f"who {'x' * i}" for i in range(1, 31)]
    options = Options(sequence_length=150, doc_stride=60)
    encoded = padded.encode(passages, questions, [i % len(passages) for i in range(len(questions))], options)
    assert len(encoded.windows) > 2 * len(questions)
    expected = dict(padded.answers(encoded, options))
    assert len(expected) == len(questions)
    for batch_size in (None, 1, 5):
        answers = dict(packed.answers(encoded, options, batch_size))
        assert {i: found.candidates[0][:3] for i, found in answers.items()} == {
            i: found.candidates[0][:3] for i, found in expected.items()
        }
        for i, found in answers.items():
            scores, others = ([candidate.score for candidate in each.candidates] for each in (found, expected[i]))
            np.testing.assert_allclose(scores, others, rtol=0, atol=4 * CLOSE)
            assert found.null_score == pytest.approx(expected[i].null_score, abs=4 * CLOSE)


# Padding


@pytest.fixture(scope="module")
def raw() -> tuple[Any, Any]:
    """The models as ONNX Runtime has them: padded and packed."""
    return session(onnx_blob(WEIGHTS, CONFIG, PADDED), True), session(onnx_blob(WEIGHTS, CONFIG, PROFILES, packed=True), True)


@given(lengths=LENGTHS, extra=st.integers(0, 20), seed=SEEDS)
@example([1], 0, 0)
@example([1, LONGEST - 20, 1], 20, 1)
@settings(max_examples=15)
def test_neither_length_nor_content_of_the_padding_changes_a_logit(
    pair: Pair, raw: tuple[Any, Any], lengths: list[int], extra: int, seed: int
) -> None:
    batch = of_lengths(lengths, CONFIG, seed)
    layout = Padded([Profile(12, min(max(lengths) + extra, LONGEST))], any_length=False)
    feed = dict(layout.feed(batch))
    padding = feed["input_mask"] == 0
    generator = np.random.default_rng(seed)
    for name, most in (("input_ids", CONFIG.vocab_size), ("segment_ids", CONFIG.type_vocab_size)):
        feed[name][padding] = generator.integers(0, most, padding.sum())
    [output] = raw[0].run(["logits"], feed)
    check_close(layout.logits(output, batch), run(pair.padded, batch))


def test_max_seqlen_may_be_longer(pair: Pair, raw: tuple[Any, Any]) -> None:
    """As those have it who do not know their longest sequence."""
    batch = of_lengths([5, 70, 1], CONFIG, 1)
    feed = {**pair.packed.layout.feed(batch), "max_seqlen": np.full(LONGEST, 7, np.int32)}
    [output] = raw[1].run(["logits"], feed)
    check_close(pair.packed.layout.logits(output, batch), run(pair.padded, batch))


# Names


@pytest.mark.parametrize("megatron", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_every_site_has_its_tensor(packed: bool, megatron: bool) -> None:
    model = onnx.load_from_string(onnx_blob(WEIGHTS, CONFIG, PROFILES, packed, megatron=megatron))
    tensors = [name for node in model.graph.node for name in node.output]
    assert len(tensors) == len(set(tensors))
    sites = bert_sites(2, megatron)
    assert {site.name for site in (*sites, sites.head)} - set(tensors) == {sites.projection.name}  # which BERT does without
