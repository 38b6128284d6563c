"""From questions to answers: tokenize, window, run in batches, and merge the best spans of each question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from helpers import squad
from helpers.errors import InputError
from helpers.sessions import Session
from helpers.tokenization import Tokenizer
from helpers.windows import Encoded, Window, best_context, best_spans, fill, make_windows


@dataclass(frozen=True)
class Options:
    """How questions are asked; lengths count tokens. Defaults are those of BERT's own treatment of SQuAD."""

    sequence_length: int
    doc_stride: int = 128
    max_query_length: int = 64
    max_answer_length: int = 30
    n_best: int = 20


class Candidate(NamedTuple):
    """A slice of the passage, characters [start, end), and the sum of its start and end logit."""

    text: str
    start: int
    end: int
    score: float


class Answer(NamedTuple):
    """The best candidates, at least one, highest score first, no text twice; and the score of "the passage has no answer"."""

    candidates: list[Candidate]
    null_score: float


def encode(
    passages: Sequence[str],
    questions: Sequence[str],
    passage_of: Sequence[int],
    tokenizer: Tokenizer,
    options: Options,
) -> Encoded:
    """Tokenizes and windows questions; each question keeps its first `max_query_length` tokens.

    Raises:
        InputError: a passage or question without a token, or a question that leaves the passage no room.
    """
    for kind, texts in (("passage", passages), ("question", questions)):
        for i, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as e:
                raise InputError(f"{kind} {i + 1} is not valid Unicode, it has half a surrogate pair: {text!r:.60}") from e
    passage_tokens, question_tokens = tokenizer(passages), tokenizer(questions)
    question_tokens = [tokens._replace(ids=tokens.ids[: options.max_query_length]) for tokens in question_tokens]
    windows: list[Window] = []
    for i, tokens in enumerate(question_tokens):
        if not len(tokens.ids):
            raise InputError(f"question {i + 1} has no words: {questions[i]!r:.60}")
        if not len(passage_tokens[passage_of[i]].ids):
            raise InputError(f"passage {passage_of[i] + 1} has no words: {passages[passage_of[i]]!r:.60}")
        if len(tokens.ids) + 4 > options.sequence_length:
            raise InputError(
                f"question {i + 1} has {len(tokens.ids)} tokens, which with 3 separators leaves no room for the passage "
                f"in a window of {options.sequence_length}: shorten it, lower --max-query-length or raise -s"
            )
        windows += make_windows(
            i, len(tokens.ids), len(passage_tokens[passage_of[i]].ids), options.sequence_length, options.doc_stride
        )
    return Encoded(passages, passage_tokens, question_tokens, passage_of, windows, tokenizer)


def encode_squad(passages: Sequence[str], questions: Sequence[squad.Question], tokenizer: Tokenizer, options: Options) -> Encoded:
    """Tokenizes and windows what `squad.read` gives. Errors as in `encode`."""
    return encode(passages, [q.text for q in questions], [q.passage for q in questions], tokenizer, options)


def run(session: Session, encoded: Encoded, batch_size: int | None = None) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Runs every window; yields the windows' indexes and logits [B, S, 2] batch by batch, in the session's order."""
    # The shortest first: most questions have one window, and are answered early.
    batches = session.layout.schedule([window.length for window in encoded.windows], batch_size)[::-1]
    filled = (fill(encoded, [encoded.windows[i] for i in indexes], length) for indexes, length in batches)
    return zip((indexes for indexes, _ in batches), session.stream(filled))


def collect(
    encoded: Encoded, results: Iterable[tuple[Sequence[int], np.ndarray]], options: Options
) -> Iterator[tuple[int, Answer]]:
    """Yields (question, answer) as soon as the last window of a question has been run; holds no logits."""
    windows = encoded.windows
    siblings: dict[int, list[int]] = {}
    for i, window in enumerate(windows):
        siblings.setdefault(window.question, []).append(i)
    starts_here = {
        i: mask
        for group in siblings.values()
        if len(group) > 1
        for i, mask in zip(group, best_context([windows[j] for j in group]))
    }
    waiting = {question: len(group) for question, group in siblings.items()}
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, float]] = {}

    for indexes, logits in results:
        may_end = np.zeros(logits.shape[:2], bool)
        for row, i in enumerate(indexes):
            may_end[row, windows[i].first : windows[i].length - 1] = True
        may_start = may_end.copy()
        for row, i in enumerate(indexes):
            if i in starts_here:
                may_start[row, windows[i].first : windows[i].length - 1] = starts_here[i]
        null_scores = logits[:, 0].sum(-1, dtype=np.float32)
        if not (np.isfinite(logits[may_end]).all() and np.isfinite(null_scores).all()):
            raise RuntimeError("the engine's logits are not numbers: float16 overflows in this model, build in float32")
        spans = best_spans(logits, may_start, may_end, options.max_answer_length, options.n_best)
        for row, i in enumerate(indexes):
            shift = windows[i].offset - windows[i].first  # from a position in the window to a token of the passage
            found[i] = (spans.start[row] + shift, spans.end[row] + shift, spans.score[row], float(null_scores[row]))
            question = windows[i].question
            waiting[question] -= 1
            if not waiting[question]:
                yield question, merge(encoded, question, [found.pop(j) for j in siblings[question]], options.n_best)


def merge(
    encoded: Encoded, question: int, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, float]], n_best: int
) -> Answer:
    """One answer from the spans (first token, last token, score) and null scores of a question's windows."""
    start, end, score = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(-score, kind="stable")
    order = order[np.isfinite(score[order])]
    passage = encoded.passage_of[question]
    text, offsets = encoded.texts[passage], encoded.passages[passage].offsets
    first, past = offsets[start[order], 0].tolist(), offsets[end[order], 1].tolist()
    candidates: dict[str, Candidate] = {}
    for a, b, total in zip(first, past, score[order].tolist()):
        if len(candidates) == n_best:
            break
        candidates.setdefault(text[a:b], Candidate(text[a:b], a, b, total))
    return Answer(list(candidates.values()), min(part[3] for part in parts))


def probabilities(scores: Sequence[float]) -> list[float]:
    """Softmax over candidates' scores."""
    raised = np.exp(np.asarray(scores, np.float64) - max(scores))
    return list((raised / raised.sum()).tolist())
