"""The Python API: open an engine, ask it.

>>> from helpers.reader import Reader
>>> passage = "TensorRT is a high performance deep learning inference platform. It runs on NVIDIA GPUs."
>>> with Reader.open("engines/qa.engine") as reader:
...     answer = reader.answer("What is TensorRT?", passage)
...     others = reader.answer(["What does it run on?", "What is it?"], passage)
>>> answer.text
'a high performance deep learning inference platform'
>>> passage[answer.start : answer.end] == answer.text
True
>>> [other.text for other in others]
['NVIDIA GPUs', 'TensorRT']
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from helpers import backends, families, tokenization
from helpers.backends.base import Session
from helpers.config import FEATURE_EXTRACTION, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from helpers.engine_file import Description
from helpers.errors import InputError
from helpers.layouts import Layout
from helpers.progress import Progress
from helpers.qa import squad
from helpers.qa.spans import Answer
from helpers.qa.spans import collect as collect_answers
from helpers.qa.windows import Encoded, Options, check_count, check_words, encode
from helpers.scheduling import schedule
from helpers.tasks import classification, entities, features, windows
from helpers.tasks.classification import Label
from helpers.tasks.entities import Entity
from helpers.tokenization import Template, Tokenizer

METHODS = {
    QUESTION_ANSWERING: "answer",
    SEQUENCE_CLASSIFICATION: "classify",
    TOKEN_CLASSIFICATION: "entities",
    FEATURE_EXTRACTION: "embed",
}


class Reader:
    """An engine with its tokenizer. It belongs to the thread that opened it; close it to free the GPU's memory.

    Args:
        session: of the engine.
        description: what stands beside the engine, if anything.
        vocab_file: a tokenizer's file, or its folder, in place of the description's.
        progress: is told where a text does not fit, the first time, and where `vocab_file` is another model's.

    Raises:
        InputError: no tokenizer is known, or it is not the engine's size; or it is not known what the engine's outputs mean.
    """

    def __init__(
        self,
        session: Session,
        description: Description | None,
        vocab_file: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.session, self.description = session, description
        check_outputs(session.layout, description)
        self.task = description.task if description else QUESTION_ANSWERING
        self._labels, self._scoring = (description.labels, description.scoring) if description else ([], "none")
        self._progress, self._told = progress or Progress(), False
        self.tokenizer, self.template = tokenizer_of(session, description, vocab_file, self._progress)

    @classmethod
    def open(
        cls,
        engine: str | Path,
        *,
        backend: str = "auto",
        runtime: str | None = None,
        vocab_file: str | Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Reader:
        """Loads an engine that a builder wrote.

        Args:
            backend: the backend that it must be an engine of, or auto.
            runtime: how the backend runs it; None for its first way.
            vocab_file, progress: as in `Reader`.
            options: of the runtime.

        Raises:
            InputError: the engine or its tokenizer cannot be used here.
        """
        session, description = backends.open_engine(Path(engine), backend, runtime, **options)
        try:
            return cls(session, description, Path(vocab_file) if vocab_file else None, progress)
        except BaseException:
            session.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what the engine holds, the GPU's memory above all."""
        self.session.close()

    @overload
    def answer(self, question: str, passage: str | Sequence[str], **options: Any) -> Answer: ...

    @overload
    def answer(self, question: Sequence[str], passage: str | Sequence[str], **options: Any) -> list[Answer]: ...

    def answer(self, question: str | Sequence[str], passage: str | Sequence[str], **options: Any) -> Answer | list[Answer]:
        """Answers a question about a passage, or several in batches.

        Args:
            question: one, or several.
            passage: one for all questions, or as many as there are questions.
            options: of qa.windows.Options: sequence_length, doc_stride, max_question_len, max_answer_len, top_k,
                handle_impossible_answer, null_threshold.

        Returns:
            The answer, a slice of the passage, with its probability and the other candidates; a list for several questions.

        Raises:
            InputError: a question or a passage has no words, or does not fit; or the engine is for another task.
        """
        self.check_task(QUESTION_ANSWERING)
        questions = [question] if isinstance(question, str) else list(question)
        passages = [passage] if isinstance(passage, str) else list(passage)
        if not isinstance(passage, str) and len(passages) != len(questions):
            raise InputError(
                f"{len(questions)} questions about {len(passages)} passages", "give one passage for all, or one each"
            )
        passage_of = [0] * len(questions) if isinstance(passage, str) else range(len(questions))
        chosen = self.options(Options(**options))
        found = in_order(self.answers(self.encode(passages, questions, passage_of, chosen), chosen))
        return found[0] if isinstance(question, str) else found

    @overload
    def classify(  # type: ignore[overload-overlap]
        self, texts: str, pairs: str | None = None, top_k: int | None = None
    ) -> list[Label]: ...

    @overload
    def classify(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, top_k: int | None = None
    ) -> list[list[Label]]: ...

    def classify(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, top_k: int | None = None
    ) -> list[Label] | list[list[Label]]:
        """Scores the engine's labels for a text, or for several in batches.

        Args:
            texts: one, or several.
            pairs: what follows each of them, where the model is one for pairs of texts.
            top_k: how many labels are kept; None for all.

        Returns:
            The labels, the highest score first; for several texts a list of that. What the engine's length does not
            hold of a text is not read.

        Raises:
            InputError: there are not as many pairs as texts, or the engine is for another task.
        """
        self.check_task(SEQUENCE_CLASSIFICATION)
        if top_k is not None:
            check_count("top_k", top_k)
        found = in_order(self.results(self.encode_texts(listed(texts), None if pairs is None else listed(pairs)), top_k=top_k))
        return found[0] if isinstance(texts, str) else found

    @overload
    def entities(  # type: ignore[overload-overlap]
        self, texts: str, doc_stride: int = Options.doc_stride
    ) -> list[Entity]: ...

    @overload
    def entities(self, texts: Sequence[str], doc_stride: int = Options.doc_stride) -> list[list[Entity]]: ...

    def entities(self, texts: str | Sequence[str], doc_stride: int = Options.doc_stride) -> list[Entity] | list[list[Entity]]:
        """Finds the entities in a text, or in several in batches.

        Args:
            texts: one, or several.
            doc_stride: of the windows that a long text is read in, from the start of one to that of the next, in tokens.

        Returns:
            The entities, in the text's order; for several texts a list of that.

        Raises:
            InputError: the engine is for another task.
        """
        self.check_task(TOKEN_CLASSIFICATION)
        found = in_order(self.results(self.encode_texts(listed(texts), options=Options(doc_stride=doc_stride))))
        return found[0] if isinstance(texts, str) else found

    def embed(self, texts: str | Sequence[str], pooling: str = "mean") -> np.ndarray:
        """Makes a vector of a text, or of several in batches.

        Args:
            texts: one, or several.
            pooling: "mean" of all the text's tokens, the special ones too, or "cls", the first token's.

        Returns:
            [E] float32; for several texts [n, E]. What the engine's length does not hold of a text is not read.

        Raises:
            InputError: no such pooling, or the engine is for another task.
        """
        self.check_task(FEATURE_EXTRACTION)
        if pooling not in features.POOLINGS:
            raise InputError(f"pooling {pooling!r:.60} is unknown", f"use one of {', '.join(features.POOLINGS)}")
        found = in_order(self.results(self.encode_texts(listed(texts)), pooling=pooling))
        vectors = np.array(found, np.float32).reshape(len(found), self.session.layout.width)
        return vectors[0] if isinstance(texts, str) else vectors

    def check_task(self, task: str) -> None:
        """Raises InputError where the engine is for another one."""
        if self.task != task:
            raise InputError(
                f"the engine is for {self.task}, not for {task}", f"call {METHODS[self.task]}, or build one with {{task}} {task}"
            )

    def options(self, options: Options) -> Options:
        """With the engine's sequence length where none is given. Raises InputError where it is above the engine's."""
        longest = self.session.layout.max_sequence_length
        if options.sequence_length and options.sequence_length > longest:
            raise InputError(
                f"sequence length {options.sequence_length} is above the engine's, {longest}", "lower {sequence_length}"
            )
        return replace(options, sequence_length=options.sequence_length or longest)

    def encode(self, passages: Sequence[str], questions: Sequence[str], passage_of: Sequence[int], options: Options) -> Encoded:
        """Tokenizes and windows questions; errors as in `qa.windows`' `encode` and `check_words`."""
        encoded = encode(passages, questions, passage_of, self.tokenizer, self.template, options)
        check_words(encoded, questions)
        return encoded

    def encode_squad(self, passages: Sequence[str], questions: Sequence[squad.Question], options: Options) -> Encoded:
        """Tokenizes and windows what `squad.read` gives, and warns of what has no words; errors as in `qa.windows.encode`."""
        names = [f"{q.id!r:.60} ({q.place})" for q in questions]
        texts, passage_of = [q.text for q in questions], [q.passage for q in questions]
        encoded = encode(passages, texts, passage_of, self.tokenizer, self.template, options, names)
        wordless = [names[i] for i in encoded.wordless()]
        if wordless:
            more = f" and {len(wordless) - 3} more" * (len(wordless) > 3)
            self._progress.warn(
                f"{len(wordless)} of {len(questions)} questions have no words, or their passages have none, and are answered "
                f"with nothing: {', '.join(wordless[:3])}{more}"
            )
        return encoded

    def encode_texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None, options: Options | None = None) -> Encoded:
        """Tokenizes and windows texts: all of each to find entities, else what one window holds.

        Raises:
            InputError: as in `tasks.windows`, or there are not as many pairs as texts.
        """
        options = self.options(options or Options())
        length = options.sequence_length or 0
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts with {len(pairs)} pairs", "give one pair for each text")
        if self.task == TOKEN_CLASSIFICATION:
            return windows.covering(texts, self.tokenizer, self.template, length, options.doc_stride)
        encoded, longer = windows.cut(texts, pairs, self.tokenizer, self.template, length)
        if longer and not self._told:
            self._told = True
            self._progress.warn(
                f"{longer} of {len(texts)} texts do not fit a window of {length} tokens: only their beginning is read"
            )
        return encoded

    def run(self, encoded: Encoded, batch_size: int | None = None) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Runs every window; yields the windows' indexes and logits, [T, W] or [B, W], batch by batch."""
        # The shortest first: most questions have one window, and are answered early.
        lengths = [window.length for window in encoded.windows]
        batches = schedule(lengths, self.session.layout, batch_size)[::-1]
        ragged = (encoded.batch([encoded.windows[i] for i in indexes]) for indexes in batches)
        return zip(batches, self.session.stream(ragged))

    def answers(self, encoded: Encoded, options: Options, batch_size: int | None = None) -> Iterator[tuple[int, Answer]]:
        """Yields (question, answer) as soon as the last window of a question has been run."""
        return collect_answers(encoded, self.run(encoded, batch_size), options)

    def results(
        self, encoded: Encoded, batch_size: int | None = None, top_k: int | None = None, pooling: str = "mean"
    ) -> Iterator[tuple[int, Any]]:
        """Yields (text, what `classify`, `entities` or `embed` gives for it) as soon as its last window has been run."""
        ran = self.run(encoded, batch_size)
        if self.task == SEQUENCE_CLASSIFICATION:
            return classification.collect(ran, self._labels, self._scoring, top_k)
        if self.task == TOKEN_CLASSIFICATION:
            return entities.collect(encoded, ran, self._labels)
        return features.collect(encoded, ran, pooling)


def check_outputs(layout: Layout, description: Description | None) -> None:
    """Raises InputError where it is not known what an engine's outputs mean."""
    if description is None:
        if (layout.width, layout.pooled) != (2, False):
            raise InputError("the engine has no description beside it that tells its outputs", "build it again")
        return
    if description.task not in METHODS:
        raise InputError(
            f"the engine's description: task {description.task!r:.60} is not supported", f"supported are {', '.join(METHODS)}"
        )
    named = len(description.labels) or layout.width  # an encoder's own outputs have no names
    if named != layout.width or layout.pooled != (description.task == SEQUENCE_CLASSIFICATION):
        raise InputError(
            f"the engine's description has {named} labels for {description.task}, but its outputs are others", "build it again"
        )


def tokenizer_of(
    session: Session, description: Description | None, vocab_file: Path | None, progress: Progress
) -> tuple[Tokenizer, Template]:
    """The tokenizer of an engine and its windows: those of a file that is given, or else of the description."""
    if vocab_file:
        family = families.find(description.model_type if description else "bert", "the engine's description")
        tokenizer, template = tokenization.read(vocab_file, family.tokenizer, families.TOKENIZERS)
        rows = description.vocab_size if description else session.vocab_size
        if rows:
            tokenization.check_size(tokenizer, rows, vocab_file)
        if description and description.template:  # which knows how many segments the model has
            template = template._replace(passage_segment=min(template.passage_segment, description.template[-1]))
        if description and description.tokenizer and tokenizer.to_json() != description.tokenizer:
            progress.warn(f"tokenizer {vocab_file} is not the one that the engine was built with")
        return tokenizer, template
    if description is None:
        raise InputError("the engine has no description beside it that tells its tokenizer", "give it with {vocab_file}")
    if not (description.tokenizer and description.template):
        raise InputError("the engine's description has no tokenizer, an older builder's", "build it again, or give {vocab_file}")
    before, between, after, segment = description.template
    return Tokenizer.from_json(description.tokenizer), Template(tuple(before), tuple(between), tuple(after), segment)


def listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def in_order(results: Iterable[tuple[int, Any]]) -> list[Any]:
    """The results of texts in the texts' order."""
    found = dict(results)
    return [found[i] for i in range(len(found))]
