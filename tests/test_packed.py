"""Packed engines against padded ones of the same weights, how windows are packed, and what is refused, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers import answer, engine
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.sessions.layouts import LENGTH_CLASSES, Packed, Padded, Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.tokenization import Tokenizer
from helpers.weights import BertWeights, random_weights
from helpers.windows import Batch
from tests.models import VOCAB, small_config

LONGEST = 200  # over several length classes
PROFILES = [Profile(1, LONGEST), Profile(4, LONGEST)]  # up to 800 tokens, of 12 sequences
CLOSE = 1e-5


class Pair(NamedTuple):
    padded: OnnxRuntimeSession
    packed: OnnxRuntimeSession


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("packed")
    config = small_config(max_position_embeddings=LONGEST)
    # Large enough for attention to prefer some tokens over others, and so for a token of a neighbour to show.
    tensors = {
        name: array * np.float32(1 if "LayerNorm" in name else 10) for name, array in random_weights(config).tensors().items()
    }
    weights = BertWeights.from_tensors(tensors)
    for packed, profiles in ((False, [Profile(12, LONGEST)]), (True, PROFILES)):
        blob = engine.build_onnx(weights, config, BuildOptions(profiles, packed))
        (folder / f"{packed}.engine").write_bytes(blob)
    return Pair(*(OnnxRuntimeSession(folder / f"{packed}.engine") for packed in (False, True)))


def ragged(lengths: Sequence[int], seed: int = 0, longest: int = 0) -> Batch:
    """Random tokens in sequences of these lengths; other tokens at padding."""
    generator = np.random.default_rng(seed)
    shape = (len(lengths), longest or max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int32)
    ids, segments = (generator.integers(0, most, shape).astype(np.int32) for most in (len(VOCAB), 2))
    return Batch(ids, segments, mask)


def row(batch: Batch, index: int) -> Batch:
    """One sequence of a batch, without its padding."""
    length = int(batch.input_mask[index].sum())
    return Batch(*(array[index : index + 1, :length] for array in batch))


def run(session: OnnxRuntimeSession, *batches: Batch) -> list[np.ndarray]:
    return list(session.stream(batches))


# Packed equals padded


def check_equal(pair: Pair, batch: Batch) -> None:
    [padded], [packed] = run(pair.padded, batch), run(pair.packed, batch)
    seen = batch.input_mask.astype(bool)
    assert packed.shape == padded.shape == (*seen.shape, 2)
    np.testing.assert_allclose(packed[seen], padded[seen], rtol=0, atol=CLOSE)
    assert not packed[~seen].any()


def test_the_pair(pair: Pair) -> None:
    assert isinstance(pair.padded.layout, Padded)
    assert isinstance(pair.packed.layout, Packed)
    assert pair.packed.layout.profiles == PROFILES
    [logits] = run(pair.padded, ragged([LONGEST]))
    assert logits.std() > 1000 * CLOSE  # so that equal means something


# No more than 12 sequences of 800 tokens
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) <= 800)


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1), extra=st.integers(0, 5))
@example([1], 0, 0)
@example([1] * 12, 1, 3)
@example([LONGEST], 2, 0)
@example([LONGEST] * 4, 3, 0)  # at exactly the budget, in the fewest sequences
@example([LONGEST, LONGEST, LONGEST, 64, 64, 64, 2, 1, 1, 1, 1, 2], 4, 0)  # and in the most
@example([1, LONGEST, 1, 65, 64], 5, 0)
@settings(deadline=None, max_examples=40)
def test_packed_equals_padded(pair: Pair, lengths: list[int], seed: int, extra: int) -> None:
    check_equal(pair, ragged(lengths, seed, min(max(lengths) + extra, LONGEST)))


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_a_sequence_does_not_see_its_neighbours(pair: Pair, lengths: list[int], seed: int) -> None:
    batch = ragged(lengths, seed)
    [logits] = run(pair.packed, batch)
    order = np.random.default_rng(seed).permutation(len(lengths))
    [shuffled] = run(pair.packed, Batch(*(array[order] for array in batch)))
    np.testing.assert_allclose(shuffled, logits[order], rtol=0, atol=CLOSE)
    for i, alone in enumerate(run(pair.packed, *(row(batch, i) for i in range(len(lengths))))):
        np.testing.assert_allclose(alone[0], logits[i, : lengths[i]], rtol=0, atol=CLOSE)


def test_a_sequence_starts_at_its_own_first_position(pair: Pair) -> None:
    """Two equal sequences have equal logits, wherever in the batch they lie; and segments count."""
    one = row(ragged([30, 17], 6), 0)
    both = Batch(*(np.concatenate([array, array]) for array in one))
    [logits] = run(pair.packed, both)
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=CLOSE)
    [changed] = run(pair.packed, both._replace(segment_ids=np.concatenate([one.segment_ids, 1 - one.segment_ids])))
    np.testing.assert_allclose(changed[0], logits[0], rtol=0, atol=CLOSE)
    assert abs(changed[1] - logits[1]).max() > 1000 * CLOSE


def test_batches_come_back_in_order(pair: Pair) -> None:
    batches = [ragged(lengths, seed) for seed, lengths in enumerate(([7, 200], [1], [200] * 4, [64, 65, 3], [12] * 12))]
    for batch, packed, padded in zip(batches, run(pair.packed, *batches), run(pair.padded, *batches)):
        seen = batch.input_mask.astype(bool)
        np.testing.assert_allclose(packed[seen], padded[seen], rtol=0, atol=CLOSE)


@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=40), batch_size=st.none() | st.integers(1, 12))
@settings(deadline=None, max_examples=15)
def test_scheduled_windows_have_the_logits_that_they_have_alone(pair: Pair, lengths: list[int], batch_size: int | None) -> None:
    whole = ragged(lengths, 7)
    batches = pair.packed.layout.schedule(lengths, batch_size)
    parts = (Batch(*(array[list(indexes), :length] for array in whole)) for indexes, length in batches)
    found = {
        i: logits[place, : lengths[i]]
        for (indexes, _), logits in zip(batches, pair.packed.stream(parts))
        for place, i in enumerate(indexes)
    }
    assert sorted(found) == list(range(len(lengths)))
    for i, [alone] in enumerate(pair.padded.stream(row(whole, i) for i in range(len(lengths)))):
        np.testing.assert_allclose(found[i], alone, rtol=0, atol=CLOSE)


def test_answers(pair: Pair) -> None:
    """From questions to answers, with windows of many lengths, several of them a question."""
    tokenizer = Tokenizer({token: i for i, token in enumerate(VOCAB)}, lower_case=True)
    generator = np.random.default_rng(8)
    passages = ["".join(generator.choice(list("abcdefgh    "), size)) + "z" for size in (3, 20, 90, 150, 400, 900)]
    questions = [f"who {'x' * i}" for i in range(1, 31)]
    passage_of = [i % len(passages) for i in range(len(questions))]
    options = answer.Options(sequence_length=150, doc_stride=60)
    encoded = answer.encode(passages, questions, passage_of, tokenizer, options)
    assert len(encoded.windows) > 2 * len(questions)
    padded, *packed = (
        dict(answer.collect(encoded, answer.run(session, encoded, size), options))
        for session, size in ((pair.padded, None), (pair.packed, None), (pair.packed, 1), (pair.packed, 5))
    )
    assert len(padded) == len(questions)
    for each in packed:
        assert {i: found.candidates[0][:3] for i, found in each.items()} == {i: f.candidates[0][:3] for i, f in padded.items()}
        for i, found in each.items():
            scores, expected = ([candidate.score for candidate in a.candidates] for a in (found, padded[i]))
            np.testing.assert_allclose(scores, expected, rtol=0, atol=4 * CLOSE)
            assert found.null_score == pytest.approx(padded[i].null_score, abs=4 * CLOSE)


# Scheduled

MANY = st.lists(st.integers(1, 512), max_size=60)
BATCH_SIZES = st.none() | st.integers(1, 20)


def class_of(length: int) -> int:
    return min(c for c in LENGTH_CLASSES if c >= length)


@given(lengths=MANY, batch_size=BATCH_SIZES, sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3))
@example([512] * 9, None, {9})
@example([1] * 60, None, {1})
@example([64, 65, 96, 97, 128, 129, 192, 193, 256, 257, 384, 385, 512], None, {9})
@settings(deadline=None, max_examples=200)
def test_packed_schedule(lengths: list[int], batch_size: int | None, sizes: set[int]) -> None:
    layout = Packed([Profile(size, 512) for size in sizes])
    budget = max(sizes) * 512
    bound = min(budget // 64, batch_size or budget)
    batches = layout.schedule(lengths, batch_size)
    assert sorted(i for indexes, _ in batches for i in indexes) == list(range(len(lengths)))  # every window, once
    for indexes, length in batches:
        own = [lengths[i] for i in indexes]
        assert own
        assert length == max(own)
        assert sum(own) <= budget
        assert len(own) <= bound
        assert len(set(map(class_of, own))) == 1
        layout.profile(layout.feed(ragged(own)))  # and the engine takes it
    for (indexes, _), (following, length) in zip(batches, batches[1:]):  # the next window would not have fitted
        own = [lengths[i] for i in indexes]
        assert length == lengths[following[0]] <= min(own)
        assert len(own) == bound or sum(own) + length > budget or class_of(length) < class_of(own[0])


@given(
    lengths=MANY,
    batch_size=BATCH_SIZES,
    sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3),
    longest=st.sets(st.integers(1, 512), max_size=3),
    any_length=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_padded_schedule(
    lengths: list[int], batch_size: int | None, sizes: set[int], longest: set[int], any_length: bool
) -> None:
    layout = Padded([Profile(*profile) for profile in product(sizes, longest | {512})], any_length)
    batches = layout.schedule(lengths, batch_size)
    assert sorted(i for indexes, _ in batches for i in indexes) == list(range(len(lengths)))
    for indexes, length in batches:
        most = max(lengths[i] for i in indexes)
        assert len(indexes) <= min(max(sizes), batch_size or len(lengths))
        assert length == (most if any_length else min(each for each in longest | {512} if each >= most))
        chosen = layout.profiles[layout.profile(layout.feed(ragged([length] * len(indexes))))]
        assert chosen.batch_size >= len(indexes)
        assert chosen.sequence_length >= length
        assert chosen.batch_size == min(each for each in sizes if each >= len(indexes))  # the tightest
    for (indexes, _), (following, _) in zip(batches, batches[1:]):  # full, and similar lengths together
        assert len(indexes) == min(max(sizes), batch_size or max(sizes))
        assert min(lengths[i] for i in indexes) >= lengths[following[0]]


def test_padded_schedule_where_longer_sequences_come_in_larger_batches() -> None:
    """A profile takes sequences of its own length only, so its batch size says nothing of shorter ones."""
    layout = Padded([Profile(2, 16), Profile(4, 64)], any_length=False)
    for indexes, length in layout.schedule([5] * 4 + [64] * 4):
        layout.profile(layout.feed(ragged([length] * len(indexes))))


@pytest.mark.parametrize("layout", [Packed(PROFILES), Padded(PROFILES, True), Padded(PROFILES, False)])
def test_a_window_longer_than_the_engine_takes(layout: Packed | Padded) -> None:
    assert layout.schedule([LONGEST])
    check_refusal(lambda: layout.schedule([3, LONGEST + 1]), "a sequence of 201 tokens does not fit the engine's longest", "200")


# Refused


def check_refusal(call: object, *says: str) -> None:
    assert callable(call)
    with pytest.raises(InputError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1
    for text in says:
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([LONGEST] * 4 + [1], ("5 sequences of 801 tokens", "which takes 12 of 800 tokens")),
        ([100] * 9, ("9 sequences of 900 tokens", "which takes 12 of 800 tokens")),
        ([1] * 13, ("13 sequences of 13 tokens", "which takes 12 of 800 tokens")),
        ([LONGEST + 1], ("the longest of 201", "the longest of 200")),
        ([5, LONGEST + 1, 7], ("the longest of 201", "the longest of 200")),
    ],
)
def test_a_batch_beyond_the_engine(pair: Pair, lengths: list[int], says: tuple[str, ...]) -> None:
    check_refusal(lambda: run(pair.packed, ragged(lengths)), *says)
    assert run(pair.packed, ragged([LONGEST] * 4))  # and the session is still good


@pytest.mark.parametrize("lengths", [[0], [3, 0, 4], [0, 5]])
def test_an_empty_sequence(pair: Pair, lengths: list[int]) -> None:
    check_refusal(lambda: run(pair.packed, ragged(lengths, longest=6)), "cu_seqlens must rise from 0")


def feed_of(lengths: Sequence[int]) -> dict[str, np.ndarray]:
    return dict(Packed(PROFILES).feed(ragged(lengths)))


@given(lengths=LENGTHS, data=st.data())
@settings(deadline=None, max_examples=60)
def test_cu_seqlens_that_do_not_rise_to_the_number_of_tokens(lengths: list[int], data: st.DataObject) -> None:
    feed, layout = feed_of(lengths), Packed(PROFILES)
    assert layout.profile(feed) == (0 if sum(lengths) <= 200 and len(lengths) <= 3 else 1)
    bounds = feed["cu_seqlens"].tolist()
    assert bounds == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    at = data.draw(st.integers(0, len(lengths)))
    change = data.draw(st.sampled_from(["repeat", "replace", "drop the end", "shift"]))
    if change == "repeat":
        bounds.insert(at, bounds[at])
    elif change == "replace":
        value = data.draw(st.integers(-5, sum(lengths) + 5))
        before, after = bounds[max(at - 1, 0)], bounds[min(at + 1, len(lengths))]
        assume(not before < value < after and value != bounds[at])
        bounds[at] = value
    elif change == "drop the end":
        bounds.pop()
    else:
        bounds = [bound + 1 for bound in bounds]
    bad = {**feed, "cu_seqlens": np.array(bounds, np.int32)}
    for call in (layout.check, layout.profile):
        check_refusal(lambda call=call: call(bad), "cu_seqlens must rise from 0 to the number of tokens, " + str(sum(lengths)))


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ([0, 9, 4, 12], "cu_seqlens must rise from 0 to the number of tokens, 12"),  # falls on its way
        ([0, 5, 11], "cu_seqlens must rise from 0 to the number of tokens, 12"),  # ends too early
        ([0, 5, 13], "cu_seqlens must rise from 0 to the number of tokens, 12"),  # and too late
        ([2, 5, 12], "cu_seqlens must rise from 0 to the number of tokens, 12"),  # starts too late
        ([0], "cu_seqlens must rise from 0 to the number of tokens, 12"),
        ([], "cu_seqlens must rise from 0 to the number of tokens, 12"),
        (list(range(0, -900, -3)), "cu_seqlens must rise from 0 to the number of tokens, 12"),  # many, in one line
        ([0, 4, 12], "a sequence of 8 tokens is longer than max_seqlen, 7"),
    ],
)
def test_cu_seqlens_by_hand(bounds: list[int], says: str) -> None:
    feed = {**feed_of([5, 7]), "cu_seqlens": np.array(bounds, np.int32)}
    check_refusal(lambda: Packed(PROFILES).check(feed), says)


def test_max_seqlen_above_the_engine() -> None:
    feed = {**feed_of([5, 7]), "max_seqlen": np.zeros(LONGEST + 1, np.int32)}
    Packed(PROFILES).check(feed)
    check_refusal(lambda: Packed(PROFILES).profile(feed), "the longest of 201", "the longest of 200")
