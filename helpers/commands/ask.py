"""What the inference scripts share: from command line to answers on the screen or in a predictions file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers import engine_file, files
from helpers.commands import cli
from helpers.errors import InputError
from helpers.qa import squad
from helpers.qa.spans import Answer, collect
from helpers.qa.windows import Options
from helpers.reader import Reader

RULE = "-" * 24


@dataclass(frozen=True)
class AskRequest:
    """What is asked of an engine.

    Args:
        runtime: how the backend runs the engine, and options of that.
        passage: None where a SQuAD file brings its own.
        question: None to ask at a prompt.
        squad_json: a file all of whose questions are answered.
        predictions: the file that its answers go to.
        batch_size: the most windows a batch; None for the engine's largest.
    """

    engine: Path
    options: Options
    backend: str = "auto"
    runtime: str | None = None
    runtime_options: Mapping[str, Any] = field(default_factory=dict)
    vocab_file: Path | None = None
    passage: str | None = None
    question: str | None = None
    squad_json: Path | None = None
    predictions: Path = Path("predictions.json")
    batch_size: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all inference scripts have."""
    cli.add_engine(parser)
    add = parser.add_argument
    add("-p", "--passage", nargs="*", help="passage words")
    add("-pf", "--passage-file", type=Path, help="file with the passage")
    add("-q", "--question", nargs="*", help="question words; without a question, ask at a prompt until exit or quit")
    add("-qf", "--question-file", type=Path, help="file with the question")
    add("-sq", "--squad-json", type=Path, help="answer every question of a SQuAD file instead")
    add("-o", "--output-prediction-file", type=Path, default=AskRequest.predictions, help="id → answer; n-best beside it")
    add("-v", "--vocab-file", type=Path, help="WordPiece vocabulary (default: the one the engine was built with)")
    add("-s", "--sequence-length", type=cli.positive, help="longest window, in tokens (default: the engine's)")
    add("-b", "--batch-size", type=cli.positive, help="windows a batch when scoring SQuAD (default: the engine's largest)")
    add("-d", "--doc-stride", type=cli.positive, default=Options.doc_stride, help="tokens between window starts")
    add("--max-query-length", type=cli.positive, default=Options.max_query_length, help="tokens kept of a question")
    add("--max-answer-length", type=cli.positive, default=Options.max_answer_length, help="tokens of the longest answer")
    add("--n-best-size", type=cli.positive, default=Options.n_best, help="candidates kept of each question")
    add("--version-2-with-negative", action="store_true", help="SQuAD 2.0: a passage may hold no answer")
    add("--null-score-diff-threshold", type=float, default=0.0, help="answer nothing where it scores this much better")


def request(parser: cli.Parser, args: argparse.Namespace, runtime: str | None = None, **runtime_options: Any) -> AskRequest:
    """What the command line asks for. Raises InputError where a passage or question cannot be read, or is empty."""
    passage = question = None
    if args.squad_json:
        if args.passage or args.passage_file or args.question or args.question_file:
            parser.error("--squad-json brings its own passages and questions: give no others")
    else:
        passage = text_of(parser, args, "passage")
        if args.question is not None or args.question_file:
            question = text_of(parser, args, "question")
    return AskRequest(
        engine=args.engine,
        options=Options(
            sequence_length=args.sequence_length,
            doc_stride=args.doc_stride,
            max_query_length=args.max_query_length,
            max_answer_length=args.max_answer_length,
            n_best=args.n_best_size,
            null_threshold=args.null_score_diff_threshold if args.version_2_with_negative else None,
        ),
        backend=args.backend,
        runtime=runtime,
        runtime_options=runtime_options,
        vocab_file=args.vocab_file,
        passage=passage,
        question=question,
        squad_json=args.squad_json,
        predictions=args.output_prediction_file,
        batch_size=args.batch_size,
    )


def text_of(parser: cli.Parser, args: argparse.Namespace, what: str) -> str:
    """The passage or question, from words or a file. Raises InputError where it is empty or only spaces."""
    words, path = getattr(args, what), getattr(args, f"{what}_file")
    if (words is None) == (path is None):
        parser.error(f"give --{what} or --{what}-file, not both" if path else f"a {what} is required: --{what} or --{what}-file")
    try:
        text = " ".join(words) if path is None else path.read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"{what} file {path} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{what} file {path} is not UTF-8 text (byte {e.start})") from e
    if not text.strip():
        raise InputError(f"the {what} is empty" + (f": {path}" if path else ""))
    return text


def run(request: AskRequest) -> None:
    """Answers what is asked: a SQuAD file, one question, or those typed at a prompt."""
    passages: list[str] = []
    questions: list[squad.Question] = []
    if request.squad_json:
        inputs = request.squad_json, request.engine, engine_file.description_path(request.engine), request.vocab_file
        for path in prediction_files(request.predictions):
            files.check_writable(path, *inputs)
        passages, questions = squad.read(request.squad_json)

    opened = Reader.open(
        request.engine,
        backend=request.backend,
        runtime=request.runtime,
        vocab_file=request.vocab_file,
        **request.runtime_options,
    )
    with opened as reader:
        options = reader.options(request.options)
        largest = reader.session.layout.max_batch_size(options.sequence_length or 1)
        if request.batch_size and request.batch_size > largest:
            raise InputError(f"batch size {request.batch_size} is above the engine's, {largest}", "lower {batch_size}")
        if request.squad_json:
            score(reader, request, options, passages, questions)
        elif request.question is not None:
            print_answer(reader, options, request.passage or "", request.question)
        else:
            for line in prompt():
                try:
                    print_answer(reader, options, request.passage or "", line)
                except InputError as e:
                    print(f"error: {e.told(cli.FLAGS)}")


def prompt() -> Iterator[str]:
    """Questions typed at a prompt, until exit, quit or the end of input."""
    while True:
        try:
            line = input("Question (to exit, type exit or quit)? ").strip()
        except EOFError:
            print()
            return
        if line in ("exit", "quit"):
            return
        if line:
            yield line


def print_answer(reader: Reader, options: Options, passage: str, question: str) -> None:
    """Answers one question and prints the rate, the answer and its probability."""
    encoded = reader.encode([passage], [question], [0], options)
    start = time.perf_counter()
    results = list(reader.run(encoded))
    rate = len(encoded.windows) / (time.perf_counter() - start)
    [(_, found)] = collect(encoded, results, options)
    print(f"{RULE}\nRunning inference in {rate:.3f} Sentences/Sec\n{RULE}")
    print(f"Answer: '{found.text}'\nWith probability: {round(found.probability, 6) * 100:.3f}")


def listed(found: Answer) -> list[dict[str, Any]]:
    """A question's candidates as the n-best file has them."""
    # Rounded as lists: a SQuAD file has 200,000 candidates.
    scores = np.round([candidate.score for candidate in found.candidates], 4).tolist()
    chances = np.round([candidate.probability for candidate in found.candidates], 6).tolist()
    return [
        {"text": text, "start": start, "end": end, "score": score, "probability": chance}
        for (text, start, end, *_), score, chance in zip(found.candidates, scores, chances)
    ]


def prediction_files(predictions: Path) -> tuple[Path, Path, Path]:
    """Predictions, n-best lists, and (SQuAD 2.0) how much better no answer scores than the best one."""
    beside = (predictions.parent / f"{kind}_{predictions.name}" for kind in ("nbest", "null_odds"))
    return predictions, *beside  # type: ignore[return-value]


def score(reader: Reader, request: AskRequest, options: Options, passages: list[str], questions: list[squad.Question]) -> None:
    """Answers all questions of a SQuAD file; Ctrl-C keeps those answered so far in `<predictions>.partial`."""
    from tqdm import tqdm

    encoded = reader.encode_squad(passages, questions, options)
    path, nbest_path, odds_path = prediction_files(request.predictions)
    nbest: dict[int, list[dict[str, Any]]] = {}
    odds: dict[str, float] = {}
    start = time.perf_counter()

    def in_order() -> dict[str, list[dict[str, Any]]]:
        return {questions[i].id: nbest[i] for i in sorted(nbest)}

    try:
        with tqdm(total=len(questions), unit=" questions", smoothing=0) as bar:
            for i, found in reader.answers(encoded, options, request.batch_size):
                nbest[i] = listed(found)
                odds[questions[i].id] = found.null_score - max(c.score for c in found.candidates if c.text)
                bar.update()
    except KeyboardInterrupt:
        if nbest:  # an earlier run's are worth more than none
            partial = path.with_name(path.name + ".partial")
            files.write_json(partial, {key: best[0]["text"] for key, best in in_order().items()})
            print(f"\n{len(nbest)} of {len(questions)} questions answered, kept in {partial}")
        raise
    seconds = time.perf_counter() - start
    files.write_json(path, {key: best[0]["text"] for key, best in in_order().items()})
    files.write_json(nbest_path, in_order(), indent=None)
    if options.null_threshold is not None:
        files.write_json(odds_path, odds)
    with suppress(FileNotFoundError):
        path.with_name(path.name + ".partial").unlink()
    print(
        f"Answered {len(questions)} questions, {len(encoded.windows)} windows, in {seconds:.1f} s "
        f"({len(encoded.windows) / seconds:.1f} Sentences/Sec) on {reader.session.device}; predictions in {path}"
    )
