"""Which sequences share a batch."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.errors import InputError
from helpers.layouts import Layout


def schedule(lengths: Sequence[int], layout: Layout, batch_size: int | None = None) -> list[list[int]]:
    """Groups sequences of similar length into batches as large as is fast, the longest first.

    Args:
        lengths: tokens of each sequence.
        layout: of the engine that they are for.
        batch_size: an upper bound on the sequences of a batch.

    Returns:
        The indexes of each batch's sequences.

    Raises:
        InputError: a sequence is longer than the engine's longest.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if order and lengths[order[0]] > layout.max_sequence_length:
        raise InputError(
            f"a sequence of {lengths[order[0]]} tokens does not fit the engine's longest, {layout.max_sequence_length}",
            "lower {sequence_length}",
        )
    batches: list[list[int]] = []
    tokens = room = most = below = 0
    for i in order:
        counted = layout.counted(lengths[i], lengths[batches[-1][0]] if batches else lengths[i])
        if not batches or len(batches[-1]) == room or tokens + counted > most or lengths[i] <= below:
            batches.append([])
            room, most = layout.room(lengths[i])
            room, most = min(room, batch_size or room), min(most, layout.best_tokens or most)
            # The class below this sequence's own: one that fits it starts a batch of its own.
            below = max((length for length in layout.length_classes if length < lengths[i]), default=0)
            tokens, counted = 0, layout.counted(lengths[i], lengths[i])
        batches[-1].append(i)
        tokens += counted
    return batches
