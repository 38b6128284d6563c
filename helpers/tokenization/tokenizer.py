"""A tokenizer, and how a window is made of its tokens."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as Pipeline
from tokenizers.pre_tokenizers import BertPreTokenizer

from helpers.errors import InputError
from helpers.reading import parse_json

# Before the name of a control token, so that no text has it: pre-tokenizers leave no space as it is.
UNSPELLED = "\0 "
SPACES = np.array([chr(i).isspace() for i in range(0x3002)])  # by code point; none is beyond U+3000


class Tokens(NamedTuple):
    """A text's tokens: ids [n], and [n, 2] offsets of each token's first and past-last character in the text; int32."""

    ids: np.ndarray
    offsets: np.ndarray


class Template(NamedTuple):
    """A window: `before`, the first text, `between`, the second one, `after`; special tokens go by name.

    `passage_segment` is the segment id of the second text and of what comes after it; all before it has 0.
    """

    before: tuple[str, ...] = ("[CLS]",)
    between: tuple[str, ...] = ("[SEP]",)
    after: tuple[str, ...] = ("[SEP]",)
    passage_segment: int = 1


class Tokenizer:
    """Turns texts into tokens.

    Args:
        pipeline: of the `tokenizers` library, its control tokens `unspelled`.
        control: the special tokens that windows are made of; spelled out in a text, they are text.
    """

    def __init__(self, pipeline: Pipeline, control: Collection[str]) -> None:
        pipeline.no_truncation()
        pipeline.no_padding()
        pipeline.encode_special_tokens = True
        self._pipeline, self.control = pipeline, tuple(sorted(control))
        added = pipeline.get_added_tokens_decoder().values()
        greedy = any((token.lstrip or token.rstrip) and not token.special for token in added)
        self._spaced = greedy or not isinstance(pipeline.pre_tokenizer, BertPreTokenizer)  # whether tokens may have a space

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of special tokens, by name. Raises InputError where there is none of that name."""
        return [self._id(token) for token in tokens]

    def _id(self, token: str) -> int:
        for name in (UNSPELLED + token, token):
            with suppress(UnicodeEncodeError):  # half a surrogate pair, which no token has
                found = self._pipeline.token_to_id(name)
                if found is not None:
                    return found
        raise InputError(f"the tokenizer has no token {token!r:.60}", "is it the model's own?")

    @property
    def size(self) -> int:
        """The highest id, and one."""
        return max(self._pipeline.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenizes texts in parallel, without adding special tokens."""
        encoded = self._pipeline.encode_batch(list(texts), add_special_tokens=False)
        found = [
            Tokens(np.array(each.ids, dtype=np.int32), np.array(each.offsets, dtype=np.int32).reshape(-1, 2)) for each in encoded
        ]
        if self._spaced:
            found = [tokens._replace(offsets=trimmed(text, tokens.offsets)) for text, tokens in zip(texts, found)]
        return found

    def to_json(self) -> str:
        """All of it."""
        return json.dumps({"control": self.control, "pipeline": self._pipeline.to_str()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The inverse of `to_json`. Raises InputError where `text` is something else."""
        try:
            values = parse_json(text, "the engine's tokenizer")
            pipeline, control = values["pipeline"], [str(token) for token in values["control"]]
        except (InputError, TypeError, KeyError) as e:
            raise InputError(
                f"this is no tokenizer that a builder wrote ({type(e).__name__}: {e})", "build the engine again"
            ) from e
        with reading("the engine's tokenizer"):
            return cls(Pipeline.from_str(pipeline), control)


def trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """Offsets [n, 2] without the spaces that tokens begin or end with; those of spaces alone stay.

    A piece of byte-level BPE or SentencePiece has the space before a word in it, and an answer is cut out by offsets.
    """
    solid = ~SPACES[np.minimum(np.frombuffer(text.encode("utf-32-le"), np.uint32), len(SPACES) - 1)]
    if solid.all() or not len(offsets):
        return offsets
    places = np.arange(len(text))
    first = np.minimum.accumulate(np.where(solid, places, len(text))[::-1])[::-1]  # solid character from each on
    last = np.maximum.accumulate(np.where(solid, places, -1))  # and up to each
    begin, end = offsets.T
    inside = begin < end
    begin_at, end_at = np.where(inside, begin, 0), np.where(inside, end - 1, 0)
    fits = inside & (first[begin_at] <= last[end_at])
    return np.stack([np.where(fits, first[begin_at], begin), np.where(fits, last[end_at] + 1, end)], 1).astype(np.int32)


def unspelled(pipeline: Pipeline, control: Collection[str]) -> Pipeline:
    """The pipeline with its control tokens out of any text's reach, and without its post-processor, whose part windows take.

    A model finds its vocabulary's control tokens in a text as it does others: SentencePiece's own, which tells them apart,
    is not the library's. Other special tokens, markers of entities say, are tokens wherever they stand.
    """
    values = json.loads(pipeline.to_str())
    values["post_processor"], model = None, values["model"]
    vocab = model["vocab"]
    # Merges make BPE's tokens, never one that was set aside from the corpus; what they name must keep its name.
    hidden = set() if model["type"] == "BPE" else set(control)

    def named(token: str) -> str:
        return UNSPELLED + token if token in hidden else token

    if isinstance(vocab, dict):
        hidden &= vocab.keys()
        model["vocab"] = {named(token): i for token, i in vocab.items()}
        model["unk_token"] = model["unk_token"] and named(model["unk_token"])
    else:
        hidden &= {token for token, _ in vocab}
        model["vocab"] = [(named(token), score) for token, score in vocab]
    for token in values["added_tokens"]:
        token["special"] = token["content"] in control  # which the library is told to take for text
        token["content"] = named(token["content"])
    return Pipeline.from_str(json.dumps(values, ensure_ascii=False))


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what the library makes of a damaged file into an InputError: exceptions, and panics, which are none of Python's."""
    try:
        yield
    except InputError:
        raise
    except BaseException as e:
        if isinstance(e, MemoryError) or not (isinstance(e, Exception) or type(e).__name__ == "PanicException"):
            raise
        says = "".join(c if c.isprintable() else " " for c in str(e)).split()
        raise InputError(f"{source} cannot be used as a tokenizer: {' '.join(says)[:200]}") from e
