"""Token classification: the entities of each text, slices whose tokens have one label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from helpers.qa.spans import best_context
from helpers.qa.windows import Encoded
from helpers.tasks import scores

OUTSIDE = "O"  # the label of tokens that belong to no entity


class Entity(NamedTuple):
    """Characters [start, end) of a text, and the mean probability of their tokens' labels."""

    label: str  # without B- or I-
    text: str
    start: int
    end: int
    score: float


def collect(
    encoded: Encoded, results: Iterable[tuple[Sequence[int], np.ndarray]], labels: Sequence[str]
) -> Iterator[tuple[int, list[Entity]]]:
    """Yields (text, entities) as soon as the last window of a text has been run, the entities in the text's order.

    Args:
        encoded: of texts alone.
        results: indexes of windows, and their logits [T, W] end to end.
        labels: W names.

    Raises:
        RuntimeError: logits are not numbers.
    """
    for text, logits in of_tokens(encoded, results):
        scores.check(logits)
        yield text, grouped(encoded.texts[text], encoded.passages[text].offsets, logits, labels)


def of_tokens(encoded: Encoded, results: Iterable[tuple[Sequence[int], np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (text, logits [n, W]) of a text's own n tokens, each from the window where it has its best context."""
    siblings = encoded.siblings()
    waiting = {text: len(group) for text, group in siblings.items()}
    found: dict[int, np.ndarray] = {}
    for indexes, logits in results:
        begin = 0
        for i in indexes:
            window = encoded.windows[i]
            found[i] = logits[begin + window.first : begin + window.first + window.shown]
            begin += window.length
            text = window.question
            waiting[text] -= 1
            if not waiting[text]:
                group = [encoded.windows[j] for j in siblings[text]]
                whole = np.empty((len(encoded.passages[text].ids), logits.shape[1]), logits.dtype)
                for j, part, best in zip(siblings[text], group, best_context(group)):
                    whole[part.offset : part.offset + part.shown][best] = found.pop(j)[best]
                yield text, whole


def grouped(text: str, offsets: np.ndarray, logits: np.ndarray, labels: Sequence[str]) -> list[Entity]:
    """Entities as Hugging Face's token-classification pipeline finds them with aggregation_strategy="simple".

    Neighbours belong together if their labels are one but for B- and I-, which B- begins anew.
    """
    tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
    chances, best = scores.softmax(logits).max(-1).tolist(), logits.argmax(-1).tolist()
    groups: list[list[int]] = []
    for token, kind in enumerate(best):
        if groups and tags[kind] == tags[best[token - 1]] and not labels[kind].startswith("B-"):
            groups[-1].append(token)
        else:
            groups.append([token])
    found: list[Entity] = []
    for group in groups:
        label = labels[best[group[0]]].split("-", 1)[-1]
        if label != OUTSIDE:
            start, end = int(offsets[group[0], 0]), int(offsets[group[-1], 1])
            found.append(Entity(label, text[start:end], start, end, sum(chances[token] for token in group) / len(group)))
    return found
