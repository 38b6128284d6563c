"""What the inference scripts share: from command line to answers on the screen or in a file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers import engine_file, files, reading
from helpers.commands import bars, cli, texts, unfinished
from helpers.commands.flags import FLAGS
from helpers.config import FEATURE_EXTRACTION, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from helpers.engine_file import Description
from helpers.errors import InputError, printable
from helpers.qa import squad
from helpers.qa.spans import Answer, collect
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.request import of_engine, of_model
from helpers.tasks.features import POOLINGS

RULE = "-" * 24


@dataclass(frozen=True)
class AskRequest:
    """What is asked of an engine.

    Args:
        runtime: how the backend runs the engine, and options of that.
        passage: None where a SQuAD file brings its own.
        passage_file: where it comes from, if from a file.
        question: None to ask at a prompt.
        question_file: where it comes from, if from a file.
        squad_json: a file all of whose questions are answered.
        output: the file that answers, or results of texts, go to; None for predictions.json, or for the screen.
        pooling: one of features.POOLINGS; None for the first.
        batch_size: the most windows a batch; None for the engine's largest.
    """

    engine: Path
    options: Options
    backend: str = "auto"
    runtime: str | None = None
    runtime_options: Mapping[str, Any] = field(default_factory=dict)
    vocab_file: Path | None = None
    passage: str | None = None
    passage_file: Path | None = None
    question: str | None = None
    question_file: Path | None = None
    squad_json: Path | None = None
    output: Path | None = None
    pooling: str | None = None
    batch_size: int | None = None

    @property
    def predictions(self) -> Path:
        return self.output or Path("predictions.json")

    def outputs(self, task: str) -> Iterator[Path]:
        """The files that are written, or may be."""
        if self.squad_json:
            yield from prediction_files(self.predictions, self.options)
            yield unfinished.place(self.predictions)
        elif self.output and task != QUESTION_ANSWERING:
            yield from (self.output, unfinished.place(self.output))

    def inputs(self, description: Description | None) -> Iterator[Path | None]:
        """The files that are read, and those that the engine was built from."""
        yield from of_engine(self.engine, description)
        yield from (self.passage_file, self.question_file, self.squad_json)
        if self.vocab_file:
            yield from of_model(self.vocab_file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all inference scripts have."""
    cli.add_engine(parser)
    add = parser.add_argument
    add("-p", "--passage", nargs="*", help="passage words; of an engine for another task, the text")
    add("-pf", "--passage-file", type=Path, help="file with the passage; of an engine for another task, with a text a line")
    add("-q", "--question", nargs="*", help="question words; without a question, ask at a prompt until exit or quit")
    add("-qf", "--question-file", type=Path, help="file with the question")
    add("-sq", "--squad-json", type=Path, help="answer every question of a SQuAD file instead")
    add(
        "-o",
        "--output-prediction-file",
        type=Path,
        help="id → answer, n-best beside it (default: predictions.json); of an engine for another task, a JSON object a text",
    )
    add("-v", "--vocab-file", type=Path, help="tokenizer.json, or a vocabulary (default: what the engine was built with)")
    add("-s", "--sequence-length", type=cli.positive, help="longest window, in tokens (default: the engine's)")
    add("-b", "--batch-size", type=cli.positive, help="windows a batch of SQuAD or of texts (default: the engine's largest)")
    add("-d", "--doc-stride", type=cli.positive, default=Options.doc_stride, help="tokens between window starts")
    add("--max-query-length", type=cli.positive, default=Options.max_question_len, help="tokens kept of a question")
    add("--max-answer-length", type=cli.positive, default=Options.max_answer_len, help="tokens of the longest answer")
    add("--n-best-size", type=cli.positive, default=Options.top_k, help="candidates kept of each question, labels of each text")
    add("--version-2-with-negative", action="store_true", help="SQuAD 2.0: a passage may hold no answer")
    add("--null-score-diff-threshold", type=cli.finite, default=0.0, help="answer nothing where it scores this much better")
    add("--pooling", choices=tuple(POOLINGS), help="a text's vector: its tokens' mean, or the first one's (default: mean)")


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
            max_question_len=args.max_query_length,
            max_answer_len=args.max_answer_length,
            top_k=args.n_best_size,
            handle_impossible_answer=args.version_2_with_negative,
            null_threshold=args.null_score_diff_threshold,
        ),
        backend=args.backend,
        runtime=runtime,
        runtime_options=runtime_options,
        vocab_file=args.vocab_file,
        passage=passage,
        passage_file=args.passage_file,
        question=question,
        question_file=args.question_file,
        squad_json=args.squad_json,
        output=args.output_prediction_file,
        pooling=args.pooling,
        batch_size=args.batch_size,
    )


def text_of(parser: cli.Parser, args: argparse.Namespace, what: str) -> str:
    """The passage or question, from words or a file. Raises InputError where it is empty or only spaces."""
    words, path = getattr(args, what), getattr(args, f"{what}_file")
    if (words is None) == (path is None):
        parser.error(f"give --{what} or --{what}-file, not both" if path else f"a {what} is required: --{what} or --{what}-file")
    text = " ".join(words) if path is None else reading.read_text(path, f"{what} file", reading.LARGE)
    if not text.strip():
        raise InputError(f"the {what} is empty" + (f": {path}" if path else ""))
    return text


def run(request: AskRequest) -> None:
    """Answers what is asked: a SQuAD file, one question, or those typed at a prompt; or reads texts, for another task."""
    passages: list[str] = []
    questions: list[squad.Question] = []
    description = engine_file.read_description(request.engine)
    task = description.task if description else QUESTION_ANSWERING
    files.check_outputs(request.outputs(task), request.inputs(description), streams=True)
    if request.squad_json:
        passages, questions = squad.read(request.squad_json)

    with cli.elapsed(f"Loading {request.engine}", bars.SLOW):
        opened = Reader.open(
            request.engine,
            backend=request.backend,
            runtime=request.runtime,
            vocab_file=request.vocab_file,
            progress=cli.Terminal(),
            **request.runtime_options,
        )
    with opened as reader:
        check_flags(request, reader.task)
        options = reader.options(request.options)
        largest = reader.session.layout.max_batch_size(options.sequence_length or 1)
        if request.batch_size and request.batch_size > largest:
            raise InputError(f"batch size {request.batch_size} is above the engine's, {largest}", "lower {batch_size}")
        if reader.task != QUESTION_ANSWERING:
            text = request.passage or ""
            lines = [line for line in text.split("\n") if line.strip()] if request.passage_file else [text]
            pooling = request.pooling or next(iter(POOLINGS))
            texts.read(reader, lines, request.question, options, pooling, request.batch_size, request.output)
        elif request.squad_json:
            score(reader, request, options, passages, questions)
        elif request.question is not None:
            print_answer(reader, options, request.passage or "", request.question)
        else:
            for line in prompt():
                try:
                    print_answer(reader, options, request.passage or "", line)
                except InputError as e:
                    print(printable(f"error: {e.told(FLAGS)}"))


def check_flags(request: AskRequest, task: str) -> None:
    """Raises InputError where something is given that an engine for this task does not take."""
    for flag, given, tasks in (
        ("--squad-json", request.squad_json, (QUESTION_ANSWERING,)),
        ("--question", request.question, (QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION)),
        ("--pooling", request.pooling, (FEATURE_EXTRACTION,)),
    ):
        if given and task not in tasks:
            raise InputError(f"{flag} is for {' and '.join(tasks)}, but engine {request.engine} is for {task}", "leave it out")


def prompt() -> Iterator[str]:
    """Questions typed at a prompt, until exit, quit or the end of input."""
    while True:
        try:
            line = input("Question (to exit, type exit or quit)? ").strip()
        except EOFError:
            print()
            return
        if line.lower() in ("exit", "quit"):
            return
        if line:
            yield line


def print_answer(reader: Reader, options: Options, passage: str, question: str) -> None:
    """Answers one question and prints the rate, the answer and its probability."""
    with cli.elapsed("Tokenizing", bars.SLOW):
        encoded = reader.encode([passage], [question], [0], options)
    for _ in reader.run(replace(encoded, windows=encoded.windows[:1])):
        pass  # the first run of an engine takes longer, and says nothing of the rate
    start = time.perf_counter()
    results = list(bars.through(reader.run(encoded), len(encoded.windows), " windows", lambda batch: len(batch[0])))
    rate = len(encoded.windows) / (time.perf_counter() - start)
    [(_, found)] = collect(encoded, results, options)
    print(f"{RULE}\nRunning inference in {rate:.3f} Sentences/Sec\n{RULE}")
    print(printable(f"Answer: '{found.text}'\nWith probability: {round(found.probability, 6) * 100:.3f}%"))


def listed(found: Answer) -> list[dict[str, Any]]:
    """A question's candidates as the n-best file has them."""
    # Rounded as lists: a SQuAD file has 200,000 candidates.
    scores = np.round([candidate.score for candidate in found.candidates], 4).tolist()
    chances = np.round([candidate.probability for candidate in found.candidates], 6).tolist()
    return [
        {"text": text, "start": start, "end": end, "score": score, "probability": chance}
        for (text, start, end, *_), score, chance in zip(found.candidates, scores, chances)
    ]


def prediction_files(predictions: Path, options: Options) -> list[Path]:
    """Predictions, n-best lists and (SQuAD 2.0) how much better no answer scores than the best one; a device takes the first."""
    kinds = ("nbest", "null_odds") if options.handle_impossible_answer else ("nbest",)
    beside = [predictions.parent / f"{kind}_{predictions.name}" for kind in kinds]
    return [predictions] if files.is_stream(predictions) else [predictions, *beside]


def score(reader: Reader, request: AskRequest, options: Options, passages: list[str], questions: list[squad.Question]) -> None:
    """Answers all questions of a SQuAD file; if a signal ends that, those answered so far are kept."""
    from tqdm import tqdm

    with cli.elapsed("Tokenizing", bars.SLOW):
        encoded = reader.encode_squad(passages, questions, options)
    nbest: dict[int, list[dict[str, Any]]] = {}
    odds: dict[str, float] = {}
    start = time.perf_counter()

    def best() -> dict[str, list[dict[str, Any]]]:
        return {questions[i].id: found for i, found in sorted(nbest.copy().items())}

    def predictions() -> dict[str, str]:
        return {key: found[0]["text"] for key, found in best().items()}

    def done() -> tuple[int, bytes]:
        answered = predictions()
        return len(answered), files.json_bytes(answered)

    path = request.predictions
    with unfinished.kept(path, unfinished.Form("questions", len(questions), done, check_predictions)):
        with tqdm(total=len(questions), unit=" questions", smoothing=0) as bar:
            for i, found in reader.answers(encoded, options, request.batch_size):
                nbest[i] = listed(found)
                odds[questions[i].id] = found.null_odds
                bar.update()
        seconds = time.perf_counter() - start
        values = (predictions(), 2), (best(), None), (odds, 2)
        wanted = prediction_files(path, options)
        # The predictions, which the others explain, are written last.
        files.write({name: [files.json_bytes(*value)] for name, value in reversed(list(zip(wanted, values)))})
    print(
        f"Answered {len(questions)} questions, {len(encoded.windows)} windows, in {seconds:.1f} s "
        f"({len(encoded.windows) / seconds:.1f} Sentences/Sec) on {reader.session.device}; predictions in {path}"
    )


def check_predictions(text: str) -> None:
    """Raises an error where a text is no file of predictions."""
    if not all(isinstance(answer, str) for answer in reading.parse_json(text, "").values()):
        raise ValueError
