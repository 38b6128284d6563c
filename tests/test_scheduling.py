"""Which sequences share a batch: each once, similar ones together, as many as is fast, and no more than the engine takes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.backends.tensorrt.plugins.nvidia import LENGTH_CLASSES
from helpers.errors import InputError
from helpers.layouts import PACKED_LEAST, Batch, Layout, Packed, Padded, Profile
from helpers.scheduling import schedule
from tests.batches import of_lengths
from tests.models import small_config

PROFILES = [Profile(4, 16), Profile(8, 16), Profile(3, 32), Profile(1, 64)]
LENGTHS = st.lists(st.integers(1, 64), max_size=40)
MANY = st.lists(st.integers(1, 512), max_size=60)
BATCH_SIZES = st.none() | st.integers(1, 20)
BEST_TOKENS = st.none() | st.integers(1, 2000)
SIZES = st.sets(st.integers(1, 9), min_size=1, max_size=3)


def batch_of(lengths: list[int]) -> Batch:
    return of_lengths(lengths, small_config())


def class_of(length: int) -> int:
    """What TensorRT's packed attention computes a batch as whose longest sequence has that length."""
    return min(c for c in LENGTH_CLASSES if c >= length)


def check_schedule(layout: Layout, lengths: list[int], batch_size: int | None) -> list[list[int]]:
    """What holds of every schedule; gives the lengths of each batch."""
    batches = schedule(lengths, layout, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))  # every sequence, once
    order = [i for batch in batches for i in batch]
    assert order == sorted(order, key=lambda i: (-lengths[i], i))  # the longest first, equal ones in their order
    found = [[lengths[i] for i in batch] for batch in batches]
    for own in found:
        assert 1 <= len(own) <= (batch_size or len(lengths))
        layout.profile(batch_of(own))  # and the engine takes it
    return found


# Padded


@given(lengths=LENGTHS, batch_size=BATCH_SIZES)
@example([], None)
@example([64] * 3, None)
@settings(max_examples=150)
def test_padded_to_the_longest_of_a_batch(lengths: list[int], batch_size: int | None) -> None:
    batches = check_schedule(Padded(PROFILES, any_length=True), lengths, batch_size)
    for own in batches[:-1]:  # as large as the engine takes
        most = max(size for size, longest in PROFILES if longest >= own[0])
        assert len(own) == min(most, batch_size or most)


@given(
    lengths=MANY, batch_size=BATCH_SIZES, sizes=SIZES, longest=st.sets(st.integers(1, 512), max_size=3), any_length=st.booleans()
)
@settings(max_examples=200)
def test_padded(lengths: list[int], batch_size: int | None, sizes: set[int], longest: set[int], any_length: bool) -> None:
    """As TensorRT has it: a profile for each batch size and each sequence length that sequences are padded to."""
    layout = Padded([Profile(*profile) for profile in product(sizes, longest | {512})], any_length)
    batches = check_schedule(layout, lengths, batch_size)
    for own in batches:
        assert len(own) <= min(max(sizes), batch_size or len(lengths))
        chosen = layout.profiles[layout.profile(batch_of(own))]
        assert chosen.sequence_length == min(each for each in longest | {512} if each >= own[0])
        assert chosen.batch_size == min(each for each in sizes if each >= len(own))  # the tightest
        width = own[0] if any_length else chosen.sequence_length
        assert layout.feed(batch_of(own))["input_ids"].shape == (len(own), width)  # not a token more than is needed
    for own in batches[:-1]:  # full
        assert len(own) == min(max(sizes), batch_size or max(sizes))


def test_padded_where_longer_sequences_come_in_larger_batches() -> None:
    """A profile takes sequences of its own length only, so its batch size says nothing of shorter ones."""
    layout = Padded([Profile(2, 16), Profile(4, 64)], any_length=False)
    assert check_schedule(layout, [5] * 4 + [64] * 4, None) == [[64] * 4, [5] * 2, [5] * 2]


def test_padded_by_hand() -> None:
    lengths = [5, 33, 17, 5, 20, 6, 18, 3]
    layout = Padded(PROFILES, any_length=True)
    assert schedule(lengths, layout) == [[1], [4, 6, 2], [5, 0, 3, 7]]
    assert schedule(lengths, layout, 2) == [[1], [4, 6], [2, 5], [0, 3], [7]]
    assert schedule(lengths, Padded([Profile(5, 64), Profile(5, 8)], any_length=False)) == [[1, 4, 6, 2, 5], [0, 3, 7]]
    assert [layout.max_batch_size(length) for length in (1, 16, 17, 32, 33, 64)] == [8, 8, 3, 3, 1, 1]


# Packed


@pytest.mark.parametrize("classes", [(), LENGTH_CLASSES], ids=["onnxruntime", "tensorrt"])
@given(
    lengths=MANY,
    longest=st.sampled_from([300, 512]),
    batch_size=BATCH_SIZES,
    sizes=st.sets(st.integers(1, 9), min_size=1),
    best_tokens=BEST_TOKENS,
)
@example([512] * 9, 512, None, {9}, None)
@example([1] * 60, 512, None, {1}, None)
@example([64, 65, 96, 97, 128, 129, 192, 193, 256, 257, 384, 385, 512], 512, None, {9}, None)
@example([100, 100, 100], 512, None, {9}, 200)  # at exactly the best
@example([512, 100, 1], 512, None, {9}, 1)  # where one sequence is already more than the best
@settings(max_examples=250)
def test_packed(
    classes: tuple[int, ...], lengths: list[int], longest: int, batch_size: int | None, sizes: set[int], best_tokens: int | None
) -> None:
    lengths = [min(length, longest) for length in lengths]
    layout = Packed([Profile(size, longest) for size in sizes], best_tokens, classes)
    budget = max(sizes) * longest
    bound = min(budget // 64, batch_size or budget)
    best = min(budget, best_tokens or budget)
    batches = check_schedule(layout, lengths, batch_size)
    for own in batches:
        assert len(own) == 1 or sum(own) <= best
        assert len(own) <= bound
        assert not classes or len(set(map(class_of, own))) == 1  # no sequence is computed as a longer class
        size, _ = layout.profiles[layout.profile(batch_of(own))]
        assert size == min(s for s in sizes if s * longest >= sum(own) and max(s, s * longest // 64) >= len(own))  # the tightest
    for own, (length, *_) in zip(batches, batches[1:]):  # the next sequence would not have fitted
        lower = bool(classes) and class_of(length) < class_of(own[0])
        assert len(own) == bound or sum(own) + length > best or lower


@given(
    lengths=st.lists(st.integers(1, 100), max_size=40),
    batch_size=BATCH_SIZES,
    profiles=st.lists(st.builds(Profile, st.integers(1, 9), st.integers(1, 100)), max_size=3),
)
@example([64, 16, 16, 16, 16], None, [Profile(8, 16)])  # which has more tokens in a batch, but none so long
def test_packed_for_several_lengths(lengths: list[int], batch_size: int | None, profiles: list[Profile]) -> None:
    check_schedule(Packed([*profiles, Profile(1, 100)]), lengths, batch_size)


def test_packed_by_hand() -> None:
    profiles = [Profile(1, 128), Profile(2, 128)]  # 256 tokens, 4 sequences
    layout = Packed(profiles, length_classes=LENGTH_CLASSES)
    assert schedule([], layout) == []
    assert schedule([128, 128, 97], layout) == [[0, 1], [2]]  # all tokens are used
    assert schedule([5, 70, 64, 96, 1, 97], layout) == [[5], [3, 1], [2, 0, 4]]
    assert schedule([5, 70, 64, 96, 1, 97], Packed(profiles)) == [[5, 3], [1, 2, 0, 4]]
    assert schedule([4, 3, 2, 6, 5], layout) == [[3, 4, 0, 1], [2]]
    assert schedule([4, 3, 2, 6, 5], layout, 2) == [[3, 4], [0, 1], [2]]
    classes = Packed([Profile(16, 384)], length_classes=LENGTH_CLASSES)
    found = schedule([65, 97, 129, 193, 257, 64, 96, 128, 192, 256, 384], classes)
    assert found == [[10, 4], [9, 3], [8, 2], [7, 1], [6, 0], [5]]


def test_a_packed_sequence_has_room_as_the_shortest_class() -> None:
    assert LENGTH_CLASSES[0] == PACKED_LEAST
    assert list(LENGTH_CLASSES) == sorted(set(LENGTH_CLASSES))


# No more than is fast


def test_the_best_number_of_tokens_by_hand() -> None:
    """Padding counts where it is computed."""
    lengths = [60, 10, 20, 30]
    padded = Padded([Profile(8, 64)], any_length=True, best_tokens=90)
    assert schedule(lengths, padded) == [[0], [3, 2, 1]]
    assert schedule(lengths, Padded([Profile(8, 64)], any_length=False, best_tokens=128)) == [[0, 3], [2, 1]]
    assert schedule(lengths, Packed([Profile(8, 64)], best_tokens=90)) == [[0, 3], [2, 1]]
    assert schedule(lengths, Packed([Profile(8, 64)], best_tokens=89)) == [[0], [3, 2, 1]]
    assert schedule(lengths, Packed([Profile(8, 64)])) == [[0, 3, 2, 1]]
    for layout in (padded, Packed([Profile(8, 64)], best_tokens=90)):
        assert schedule(lengths, layout, 1) == [[0], [3], [2], [1]]


@given(lengths=LENGTHS, batch_size=BATCH_SIZES, best_tokens=BEST_TOKENS, any_length=st.booleans())
@example([20, 20, 20], None, 40, True)
@example([60, 60], None, 127, False)
@example([64, 20], None, 1, True)
def test_the_best_number_of_padded_tokens(
    lengths: list[int], batch_size: int | None, best_tokens: int | None, any_length: bool
) -> None:
    layout = Padded([Profile(8, 16), Profile(8, 64)], any_length, best_tokens)
    most = min(8, batch_size or 8)
    batches = check_schedule(layout, lengths, batch_size)
    for own in batches:
        width = own[0] if any_length else 16 if own[0] <= 16 else 64
        best = best_tokens or 8 * width
        assert len(own) == 1 or len(own) * width <= best
        assert own is batches[-1] or len(own) == most or (len(own) + 1) * width > best  # one more would have been too many


# Refused


@pytest.mark.parametrize(
    "layout",
    [
        Packed([Profile(1, 200), Profile(4, 200)]),
        Padded([Profile(1, 200), Profile(4, 200)], any_length=True),
        Padded([Profile(1, 200), Profile(4, 200)], any_length=False),
    ],
    ids=["packed", "any", "padded"],
)
def test_a_sequence_longer_than_the_engine_takes(layout: Layout) -> None:
    assert schedule([200], layout) == [[0]]
    with pytest.raises(InputError) as error:
        schedule([3, 201, 200], layout)
    assert str(error.value) == "a sequence of 201 tokens does not fit the engine's longest, 200: lower sequence_length"
    assert error.value.told({"sequence_length": "-s"}).endswith("longest, 200: lower -s")
