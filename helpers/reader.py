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

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from helpers import backends, families, tokenization
from helpers.backends.base import Session
from helpers.engine_file import Description
from helpers.errors import InputError
from helpers.qa import squad
from helpers.qa.spans import Answer, collect
from helpers.qa.windows import Encoded, Options, encode
from helpers.scheduling import schedule


class Reader:
    """An engine with its tokenizer. It belongs to the thread that opened it; close it to free the GPU's memory.

    Args:
        session: of the engine.
        description: what stands beside the engine, if anything.
        vocab_file: the vocabulary; None for the one that the description names.

    Raises:
        InputError: no vocabulary is known, or it is not the engine's size.
    """

    def __init__(self, session: Session, description: Description | None, vocab_file: Path | None = None) -> None:
        self.session, self.description = session, description
        if vocab_file is None and description is None:
            raise InputError("the engine has no description beside it that names its vocabulary", "give it with {vocab_file}")
        path = vocab_file or Path(description.vocab_file)  # type: ignore[union-attr]
        vocab = tokenization.read_vocab(path)
        rows = description.vocab_size if description else session.vocab_size
        if rows:
            tokenization.check_vocab_size(vocab, rows, path)
        lower_case = description.lower_case if description else tokenization.is_lower_case(vocab, path.parent)
        family = families.find(description.model_type if description else "bert", "the engine's description")
        self.tokenizer, self.template = family.tokenizer(vocab, lower_case), family.template

    @classmethod
    def open(
        cls,
        engine: str | Path,
        *,
        backend: str = "auto",
        runtime: str | None = None,
        vocab_file: str | Path | None = None,
        **options: Any,
    ) -> Reader:
        """Loads an engine that a builder wrote.

        Args:
            backend: the backend that it must be an engine of, or auto.
            runtime: how the backend runs it; None for its first way.
            options: of the runtime.

        Raises:
            InputError: the engine or its vocabulary cannot be used here.
        """
        session, description = backends.open_engine(Path(engine), backend, runtime, **options)
        try:
            return cls(session, description, Path(vocab_file) if vocab_file else None)
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
            options: of qa.windows.Options: sequence_length, doc_stride, max_query_length, max_answer_length, n_best,
                null_threshold.

        Returns:
            The answer, a slice of the passage, with its probability and the other candidates; a list for several questions.

        Raises:
            InputError: a question or a passage has no words, or does not fit.
        """
        questions = [question] if isinstance(question, str) else list(question)
        passages = [passage] if isinstance(passage, str) else list(passage)
        if not isinstance(passage, str) and len(passages) != len(questions):
            raise InputError(
                f"{len(questions)} questions about {len(passages)} passages", "give one passage for all, or one each"
            )
        passage_of = [0] * len(questions) if isinstance(passage, str) else range(len(questions))
        chosen = self.options(Options(**options))
        found = dict(self.answers(self.encode(passages, questions, passage_of, chosen), chosen))
        return found[0] if isinstance(question, str) else [found[i] for i in range(len(questions))]

    def options(self, options: Options) -> Options:
        """With the engine's sequence length where none is given. Raises InputError where it is above the engine's."""
        longest = self.session.layout.max_sequence_length
        if options.sequence_length and options.sequence_length > longest:
            raise InputError(
                f"sequence length {options.sequence_length} is above the engine's, {longest}", "lower {sequence_length}"
            )
        return replace(options, sequence_length=options.sequence_length or longest)

    def encode(self, passages: Sequence[str], questions: Sequence[str], passage_of: Sequence[int], options: Options) -> Encoded:
        """Tokenizes and windows questions; errors as in `qa.windows.encode`."""
        return encode(passages, questions, passage_of, self.tokenizer, self.template, options)

    def encode_squad(self, passages: Sequence[str], questions: Sequence[squad.Question], options: Options) -> Encoded:
        """Tokenizes and windows what `squad.read` gives."""
        return self.encode(passages, [q.text for q in questions], [q.passage for q in questions], options)

    def run(self, encoded: Encoded, batch_size: int | None = None) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Runs every window; yields the windows' indexes and logits [T, 2] batch by batch."""
        # The shortest first: most questions have one window, and are answered early.
        lengths = [window.length for window in encoded.windows]
        batches = schedule(lengths, self.session.layout, batch_size)[::-1]
        ragged = (encoded.batch([encoded.windows[i] for i in indexes]) for indexes in batches)
        return zip(batches, self.session.stream(ragged))

    def answers(self, encoded: Encoded, options: Options, batch_size: int | None = None) -> Iterator[tuple[int, Answer]]:
        """Yields (question, answer) as soon as the last window of a question has been run."""
        return collect(encoded, self.run(encoded, batch_size), options)
