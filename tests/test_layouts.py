"""How batches lie in an engine's tensors, and what is refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from helpers.errors import InputError
from helpers.layouts import Batch, Layout, Packed, Padded, Profile, bounds_of, is_packed
from tests.batches import of_lengths
from tests.models import small_config

LONGEST = 200
PROFILES = [Profile(1, LONGEST), Profile(4, LONGEST)]  # up to 800 tokens; packed, of 12 sequences
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) <= 800)
# A profile for each of some sizes and each of some lengths, as builders make them
GRIDS = st.builds(
    lambda sizes, lengths: [Profile(*profile) for profile in product(sizes, lengths)],
    st.sets(st.integers(1, 6), min_size=1, max_size=3),
    st.sets(st.integers(1, 12), min_size=1, max_size=3),
)
WIDTHS = st.integers(1, 9)
ANY = st.lists(st.builds(Profile, st.integers(1, 6), st.integers(1, 100)), min_size=1, max_size=5)


def batch_of(lengths: Sequence[int], seed: int = 0) -> Batch:
    return of_lengths(lengths, small_config(), seed)


def layouts(profiles: list[Profile]) -> list[Layout]:
    return [Packed(profiles), Padded(profiles, any_length=True), Padded(profiles, any_length=False)]


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(InputError) as error:
        call(*args)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# Batches


@given(lengths=LENGTHS)
def test_bounds_of(lengths: list[int]) -> None:
    bounds = bounds_of(lengths)
    assert bounds.dtype == np.int32
    assert bounds.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]


@given(lengths=LENGTHS)
def test_lengths_of_a_batch(lengths: list[int]) -> None:
    batch = batch_of(lengths)
    batch.check()
    assert (batch.lengths.tolist(), batch.longest) == (lengths, max(lengths))
    assert type(batch.longest) is int


@given(lengths=LENGTHS, data=st.data())
def test_cu_seqlens_that_do_not_rise_to_the_number_of_tokens(lengths: list[int], data: st.DataObject) -> None:
    batch = batch_of(lengths)
    assert Packed(PROFILES).profile(batch) == (0 if sum(lengths) <= 200 and len(lengths) <= 3 else 1)
    bounds = batch.cu_seqlens.tolist()
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
    bad = batch._replace(cu_seqlens=np.array(bounds, np.int32))
    says = f"cu_seqlens must rise from 0 to the number of tokens, {sum(lengths)}, by at least 1 a sequence, not ["
    for call in (bad.check, *(lambda layout=layout: layout.profile(bad) for layout in layouts(PROFILES))):
        assert refusal(call).startswith(says)


@pytest.mark.parametrize(
    "bounds",
    [
        [0, 9, 4, 12],  # falls on its way
        [0, 5, 11],  # ends too early
        [0, 5, 13],  # and too late
        [2, 5, 12],  # starts too late
        [0, 5, 5, 12],  # an empty sequence
        [0],
        [],
        list(range(0, -900, -3)),  # many, in one line
    ],
)
def test_cu_seqlens_by_hand(bounds: list[int]) -> None:
    bad = batch_of([5, 7])._replace(cu_seqlens=np.array(bounds, np.int32))
    assert refusal(bad.check).startswith(
        "cu_seqlens must rise from 0 to the number of tokens, 12, by at least 1 a sequence, not ["
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_seqlens": [0, 3, 5]}, "cu_seqlens must rise from 0 to the number of tokens, 4, "),
        ({"cu_seqlens": [1, 3, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0, 3, 3, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0, 5, 4]}, "cu_seqlens must rise from 0 "),
        ({"cu_seqlens": [0]}, "cu_seqlens must rise from 0 "),
        ({"input_ids": [1] * 5}, "segment_ids has 4 tokens, input_ids 5: they must agree"),
        ({"segment_ids": [0, 0, 0]}, "segment_ids has 3 tokens, input_ids 4: they must agree"),
        (
            {"input_ids": [1] * 9, "segment_ids": [0] * 9, "cu_seqlens": [0, 9]},
            "1 sequences of 9 tokens, the longest of 9, do not fit the engine, which takes 2 of 16 tokens, the longest of 8",
        ),
    ],
)
def test_packed_inputs_that_do_not_agree(changes: dict[str, list[int]], message: str) -> None:
    layout = Packed([Profile(2, 8)])
    good = {"input_ids": [1] * 4, "segment_ids": [0] * 4, "cu_seqlens": [0, 3, 4]}
    assert layout.profile(Batch(*(np.array(values, np.int32) for values in good.values()))) == 0
    bad = Batch(*(np.array(values, np.int32) for values in {**good, **changes}.values()))
    assert refusal(layout.profile, bad).startswith(message)


# Padded


def lists(lengths: Sequence[int], batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Ids and segments of each sequence."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [
        (batch.input_ids[start : start + n].tolist(), batch.segment_ids[start : start + n].tolist())
        for start, n in zip(starts, lengths)
    ]


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    profiles=GRIDS,
    any_length=st.booleans(),
    width=WIDTHS,
    seed=st.integers(0, 99),
)
@example(lengths=[3, 1], profiles=[Profile(2, 3)], any_length=False, width=2, seed=0)  # nothing is left over
@example(lengths=[1], profiles=[Profile(6, 12), Profile(1, 5), Profile(6, 2)], any_length=False, width=2, seed=0)
def test_padded_feed_and_logits(lengths: list[int], profiles: list[Profile], any_length: bool, width: int, seed: int) -> None:
    layout = Padded([*profiles, Profile(6, 12)], any_length, width=width)
    batch = batch_of(lengths, seed)
    longest = max(lengths)
    if not any_length:
        longest = min(p.sequence_length for p in layout.profiles if p.sequence_length >= longest and p.batch_size >= len(lengths))
    feed = layout.feed(batch)
    assert tuple(feed) == layout.inputs == ("input_ids", "segment_ids", "input_mask")
    assert {(array.dtype.name, array.shape) for array in feed.values()} == {("int32", (len(lengths), longest))}
    for row, (ids, segments) in enumerate(lists(lengths, batch)):
        padding = [0] * (longest - len(ids))
        assert feed["input_ids"][row].tolist() == ids + padding
        assert feed["segment_ids"][row].tolist() == segments + padding
        assert feed["input_mask"][row].tolist() == [1] * len(ids) + padding

    output = np.random.default_rng(seed).standard_normal((len(lengths), longest, width, 1, 1), np.float32)
    expected = [output[row, at, :, 0, 0].tolist() for row, n in enumerate(lengths) for at in range(n)]
    for shaped in (output, output.ravel(), output[..., 0, 0]):
        logits = layout.logits(shaped, batch)
        assert (logits.dtype.name, logits.tolist()) == ("float32", expected)


@given(lengths=LENGTHS, width=WIDTHS, seed=st.integers(0, 99))
@example(lengths=[7], width=1, seed=0)
@example(lengths=[1, 1, 1], width=3, seed=0)  # as many sequences as tokens
def test_pooled_logits(lengths: list[int], width: int, seed: int) -> None:
    """A row a sequence, whatever its tokens."""
    batch = batch_of(lengths, seed)
    rows = np.random.default_rng(seed).standard_normal((len(lengths), width), np.float32)
    profiles = [Profile(12, LONGEST)]
    for layout, output in (
        (Padded(profiles, any_length=True, width=width, pooled=True), rows[:, None, :, None, None]),
        (Padded(profiles, any_length=False, width=width, pooled=True), rows[:, None, :, None, None]),
        (Packed(profiles, width=width, pooled=True), rows[:, :, None, None]),
    ):
        for shaped in (output, output.ravel(), rows):
            logits = layout.logits(shaped, batch)
            assert (logits.dtype.name, logits.tolist()) == ("float32", rows.tolist())


def test_padded_by_hand() -> None:
    batch = Batch(np.array([5, 6, 7, 8], np.int32), np.array([0, 1, 1, 2], np.int32), np.array([0, 3, 4], np.int32))
    feed = Padded([Profile(2, 4)], any_length=False).feed(batch)
    assert [array.tolist() for array in feed.values()] == [
        [[5, 6, 7, 0], [8, 0, 0, 0]],
        [[0, 1, 1, 0], [2, 0, 0, 0]],
        [[1, 1, 1, 0], [1, 0, 0, 0]],
    ]
    assert Padded([Profile(2, 4)], any_length=True).feed(batch)["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    logits = Padded([Profile(2, 3)], any_length=True).logits(np.arange(12, dtype=np.float32), batch)
    assert logits.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@given(size=st.integers(1, 7), longest=st.integers(1, 101), profiles=ANY, any_length=st.booleans())
def test_padded_profile(size: int, longest: int, profiles: list[Profile], any_length: bool) -> None:
    """The tightest: of the shortest that take the batch, the smallest."""
    layout, batch = Padded(profiles, any_length), batch_of([1] * (size - 1) + [longest])
    fitting = [p for p in profiles if p.batch_size >= size and p.sequence_length >= longest]
    if fitting:
        assert profiles[layout.profile(batch)] == sorted(fitting, key=lambda p: (p.sequence_length, p.batch_size))[0]
    else:
        says = f"a batch of {size} × {longest} tokens fits none of the engine's profiles, {layout.listed()}"
        assert refusal(layout.profile, batch) == says


# Packed


@given(lengths=LENGTHS, width=WIDTHS, seed=st.integers(0, 99))
def test_packed_feed_and_logits(lengths: list[int], width: int, seed: int) -> None:
    layout, batch, tokens = Packed(PROFILES, width=width), batch_of(lengths, seed), sum(lengths)
    feed = layout.feed(batch)
    assert tuple(feed) == layout.inputs == ("input_ids", "segment_ids", "cu_seqlens", "max_seqlen")
    assert {array.dtype.name for array in feed.values()} == {"int32"}
    for name in ("input_ids", "segment_ids", "cu_seqlens"):
        assert feed[name].tolist() == getattr(batch, name).tolist()
    assert feed["max_seqlen"].shape == (max(lengths),)

    output = np.random.default_rng(seed).standard_normal((width, tokens, 1, 1), np.float32)
    expected = [[float(output[each, at, 0, 0]) for each in range(width)] for at in range(tokens)]
    for shaped in (output, output.ravel(), output[..., 0, 0]):
        logits = layout.logits(shaped, batch)
        assert (logits.dtype.name, logits.tolist()) == ("float32", expected)


def test_packed_batches_by_hand() -> None:
    layout = Packed([Profile(2, 8)])
    batch = Batch(np.array([5, 6, 7, 8], np.int32), np.array([0, 1, 1, 0], np.int32), np.array([0, 3, 4], np.int32))
    feed = layout.feed(batch)
    assert tuple(feed) == layout.inputs
    assert [array.tolist() for array in feed.values()][:3] == [[5, 6, 7, 8], [0, 1, 1, 0], [0, 3, 4]]
    assert (feed["max_seqlen"].shape, {str(array.dtype) for array in feed.values()}) == ((3,), {"int32"})
    logits = layout.logits(np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32), batch)
    assert logits.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), profiles=ANY)
def test_packed_profile(lengths: list[int], profiles: list[Profile]) -> None:
    """The one of the fewest tokens that takes the batch; every 64 tokens make room for a sequence."""
    layout, batch = Packed(profiles), batch_of(lengths)
    fitting = [
        size * longest
        for size, longest in profiles
        if size * longest >= sum(lengths) and max(size, size * longest // 64) >= len(lengths) and longest >= max(lengths)
    ]
    if fitting:
        assert profiles[layout.profile(batch)].tokens == min(fitting)
    else:
        says = f"{len(lengths)} sequences of {sum(lengths)} tokens, the longest of {max(lengths)}, do not fit the engine, "
        assert refusal(layout.profile, batch).startswith(says)


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
def test_a_batch_beyond_a_packed_engine(lengths: list[int], says: tuple[str, ...]) -> None:
    message = refusal(Packed(PROFILES).profile, batch_of(lengths))
    for text in says:
        assert text in message


@pytest.mark.parametrize(("size", "length", "tokens", "sequences"), [(4, 200, 800, 12), (1, 128, 128, 2), (5, 8, 40, 5)])
def test_profiles(size: int, length: int, tokens: int, sequences: int) -> None:
    profile = Profile(size, length)
    assert (profile.tokens, profile.packed_sequences) == (tokens, sequences)


# How much a batch may hold


@given(longest=st.integers(1, 12), profiles=GRIDS)
def test_room_of_a_padded_batch(longest: int, profiles: list[Profile]) -> None:
    """As many sequences of that length as some profile takes; where they are padded to a profile, of the shortest one."""
    profiles = [*profiles, Profile(3, 12)]
    for any_length in (True, False):
        layout = Padded(profiles, any_length)
        lengths = [length for _, length in profiles if length >= longest]
        width = longest if any_length else min(lengths)
        size = max(size for size, length in profiles if length >= longest and (any_length or length == width))
        assert layout.room(longest) == (size, size * width)
        assert {layout.counted(length, longest) for length in range(1, longest + 1)} == {width}
        profile = layout.profiles[layout.profile(batch_of([longest] * size))]
        assert any_length or profile.sequence_length == width


@given(longest=st.integers(1, 100), profiles=ANY)
def test_room_of_a_packed_batch(longest: int, profiles: list[Profile]) -> None:
    layout = Packed([*profiles, Profile(1, 100)])
    sequences, tokens = layout.room(longest)
    assert tokens == max(size * length for size, length in layout.profiles if length >= longest)
    full = [longest] * min(sequences, tokens // longest)
    left = tokens - sum(full)
    full += [left] * (0 < left <= longest and len(full) < sequences)
    many = [longest] + [1] * min(sequences - 1, tokens - longest)
    for lengths in (full, many):
        layout.profile(batch_of(lengths))
    assert [layout.counted(length, longest) for length in range(1, longest + 1)] == list(range(1, longest + 1))


@given(profiles=ANY, any_length=st.booleans())
def test_the_largest_batch_of_one_length(profiles: list[Profile], any_length: bool) -> None:
    longest = max(length for _, length in profiles)
    edges = {1, *(length for _, length in profiles), *(length + 1 for _, length in profiles)} - {longest + 1}
    for layout in (Padded(profiles, any_length), Packed(profiles)):
        assert layout.max_sequence_length == longest
        for length in edges:
            size = layout.max_batch_size(length)
            layout.profile(batch_of([length] * size))
            if isinstance(layout, Padded):
                refusal(layout.profile, batch_of([length] * (size + 1)))


def test_listed() -> None:
    assert Packed(PROFILES).listed() == "1 × 200, 4 × 200"


def test_inputs_tell_the_layout() -> None:
    assert is_packed(Packed.inputs)
    assert not is_packed(Padded.inputs)
