"""What the inference scripts share: from command line to answers on the screen or in a predictions file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers import answer, cli, engine, files, squad, tokenization
from helpers.answer import Answer, Candidate, Options
from helpers.errors import InputError
from helpers.sessions import Session

RULE = "-" * 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all inference scripts have."""
    cli.add_engine(parser)
    add = parser.add_argument
    add("-p", "--passage", nargs="*", help="passage words")
    add("-pf", "--passage-file", type=Path, help="file with the passage")
    add("-q", "--question", nargs="*", help="question words; without a question, ask at a prompt until exit or quit")
    add("-qf", "--question-file", type=Path, help="file with the question")
    add("-sq", "--squad-json", type=Path, help="answer every question of a SQuAD file instead")
    add("-o", "--output-prediction-file", type=Path, default=Path("predictions.json"), help="id → answer; n-best beside it")
    add("-v", "--vocab-file", type=Path, help="WordPiece vocabulary (default: the one the engine was built with)")
    add("-s", "--sequence-length", type=cli.positive, help="longest window, in tokens (default: the engine's)")
    add("-b", "--batch-size", type=cli.positive, help="windows a batch when scoring SQuAD (default: the engine's largest)")
    add("-d", "--doc-stride", type=cli.positive, default=Options.doc_stride, help="tokens between window starts")
    add("--max-query-length", type=cli.positive, default=Options.max_query_length, help="tokens kept of a question")
    add("--max-answer-length", type=cli.positive, default=Options.max_answer_length, help="tokens of the longest answer")
    add("--n-best-size", type=cli.positive, default=Options.n_best, help="candidates kept of each question")
    add("--version-2-with-negative", action="store_true", help="SQuAD 2.0: a passage may hold no answer")
    add("--null-score-diff-threshold", type=float, default=0.0, help="answer nothing where it scores this much better")


def run(parser: cli.Parser, args: argparse.Namespace, open_session: Callable[..., Session]) -> None:
    """Does what the command line asks for.

    Args:
        open_session: (engine file, backend name, description or None) → Session.
    """
    if args.squad_json:
        if args.passage or args.passage_file or args.question or args.question_file:
            parser.error("--squad-json brings its own passages and questions: give no others")
        inputs = args.squad_json, args.engine, engine.description_path(args.engine), args.vocab_file
        for path in prediction_files(args.output_prediction_file):
            files.check_writable(path, *inputs)
        passages, questions = squad.read(args.squad_json)
    else:
        passages = [text_of(parser, args, "passage")]
        asked = text_of(parser, args, "question") if args.question is not None or args.question_file else None

    engine.recognise(args.engine)  # before what is beside it is blamed
    description = engine.describe(args.engine)
    session = open_session(args.engine, args.backend, description)
    tokenizer = make_tokenizer(args.vocab_file, description, session.vocab_size)
    longest = args.sequence_length or session.layout.max_sequence_length
    if longest > session.layout.max_sequence_length:
        raise InputError(f"sequence length {longest} is above the engine's, {session.layout.max_sequence_length}: lower -s")
    if args.batch_size and args.batch_size > session.layout.max_batch_size(longest):
        raise InputError(
            f"batch size {args.batch_size} is above the engine's, {session.layout.max_batch_size(longest)}: lower -b"
        )
    options = Options(longest, args.doc_stride, args.max_query_length, args.max_answer_length, args.n_best_size)

    if args.squad_json:
        score(args, session, tokenizer, options, passages, questions)
    elif asked is not None:
        print_answer(args, session, tokenizer, options, passages[0], asked)
    else:
        for line in prompt():
            try:
                print_answer(args, session, tokenizer, options, passages[0], line)
            except InputError as e:
                print(f"error: {e}")


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


def make_tokenizer(
    vocab_file: Path | None, description: engine.Description | None, vocab_size: int | None = None
) -> tokenization.Tokenizer:
    """A tokenizer for an engine. Raises InputError where no vocabulary is known, or it is not the engine's size.

    Args:
        vocab_size: rows of the word embedding, for an engine without a description, where it tells.
    """
    if vocab_file is None and description is None:
        raise InputError("the engine has no description beside it that names its vocabulary: give it with -v")
    path = vocab_file or Path(description.vocab_file)  # type: ignore[union-attr]
    vocab = tokenization.read_vocab(path)
    rows = description.vocab_size if description else vocab_size
    if rows:
        tokenization.check_vocab_size(vocab, rows, path)
    lower_case = description.lower_case if description else tokenization.is_lower_case(vocab, path.parent)
    return tokenization.Tokenizer(vocab, lower_case)


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


def print_answer(
    args: argparse.Namespace,
    session: Session,
    tokenizer: tokenization.Tokenizer,
    options: Options,
    passage: str,
    question: str,
) -> None:
    """Answers one question and prints the rate, the answer and its probability."""
    encoded = answer.encode([passage], [question], [0], tokenizer, options)
    start = time.perf_counter()
    results = list(answer.run(session, encoded))
    rate = len(encoded.windows) / (time.perf_counter() - start)
    [(_, found)] = answer.collect(encoded, results, options)
    best, *_ = ranked(args, found)
    print(f"{RULE}\nRunning inference in {rate:.3f} Sentences/Sec\n{RULE}")
    print(f"Answer: '{best['text']}'\nWith probability: {best['probability'] * 100:.3f}")


def ranked(args: argparse.Namespace, found: Answer) -> list[dict[str, Any]]:
    """A question's candidates with probabilities, best first; among them the empty answer where the file is SQuAD 2.0."""
    candidates = list(found.candidates)
    if args.version_2_with_negative:
        null = Candidate("", 0, 0, found.null_score)
        wins = null.score - candidates[0].score > args.null_score_diff_threshold
        candidates.insert(0 if wins else len(candidates), null)
    scores = [candidate.score for candidate in candidates]
    chances = np.round(answer.probabilities(scores), 6).tolist()  # a list at once: a SQuAD file has 200,000 candidates
    return [
        {"text": text, "start": start, "end": end, "score": score, "probability": chance}
        for (text, start, end, _), score, chance in zip(candidates, np.round(scores, 4).tolist(), chances)
    ]


def prediction_files(predictions: Path) -> tuple[Path, Path, Path]:
    """Predictions, n-best lists, and (SQuAD 2.0) how much better no answer scores than the best one."""
    beside = (predictions.parent / f"{kind}_{predictions.name}" for kind in ("nbest", "null_odds"))
    return predictions, *beside  # type: ignore[return-value]


def score(
    args: argparse.Namespace,
    session: Session,
    tokenizer: tokenization.Tokenizer,
    options: Options,
    passages: list[str],
    questions: list[squad.Question],
) -> None:
    """Answers all questions of a SQuAD file; Ctrl-C keeps those answered so far in `<predictions>.partial`."""
    from tqdm import tqdm

    encoded = answer.encode_squad(passages, questions, tokenizer, options)
    path, nbest_path, odds_path = prediction_files(args.output_prediction_file)
    nbest: dict[int, list[dict[str, Any]]] = {}
    odds: dict[str, float] = {}
    start = time.perf_counter()

    def in_order() -> dict[str, list[dict[str, Any]]]:
        return {questions[i].id: nbest[i] for i in sorted(nbest)}

    try:
        with tqdm(total=len(questions), unit=" questions", smoothing=0) as bar:
            for i, found in answer.collect(encoded, answer.run(session, encoded, args.batch_size), options):
                nbest[i] = ranked(args, found)
                odds[questions[i].id] = found.null_score - found.candidates[0].score
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
    if args.version_2_with_negative:
        files.write_json(odds_path, odds)
    with suppress(FileNotFoundError):
        path.with_name(path.name + ".partial").unlink()
    print(
        f"Answered {len(questions)} questions, {len(encoded.windows)} windows, in {seconds:.1f} s "
        f"({len(encoded.windows) / seconds:.1f} Sentences/Sec) on {session.device}; predictions in {path}"
    )
