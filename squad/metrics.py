"""What the two SQuAD evaluations share: the metric on one prediction, the reading of files, the command line.

The metric is the one of SQuAD 1.1 (Rajpurkar, Zhang, Lopyrev and Liang, 2016, arXiv:1606.05250), which SQuAD 2.0
(Rajpurkar, Jia and Liang, 2018, arXiv:1806.03822) builds on.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable

from helpers import reading
from helpers.commands.arguments import Parser
from helpers.commands.process import complain
from helpers.errors import InputError
from helpers.qa import squad

Questions = list[tuple[str, list[str]]]
"""The questions of a data set in its order: id, and the texts of the annotated answers."""

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


# The metric


def normalise(text: str) -> str:
    """Reduce an answer to what the metric compares (arXiv:1606.05250, section 6.1).

    Args:
        text: an answer as annotated or predicted.

    Returns:
        The text in lower case, without ASCII punctuation and the words a, an and the, with single spaces between words.
        Punctuation goes first: "a." is an article, and "the-end" becomes the one word "theend".
    """
    bare = text.lower().translate(_ASCII_PUNCTUATION)
    # Not every neighbour of an article is a space, so one takes its place: "x—the—y" stays in two parts.
    return " ".join(_ARTICLE.sub(" ", bare).split())


def exact_match(prediction: str, truth: str) -> float:
    """Say whether two answers are the same once normalised (arXiv:1606.05250).

    Args:
        prediction: the predicted answer.
        truth: one annotated answer.

    Returns:
        1.0 or 0.0.
    """
    return float(normalise(prediction) == normalise(truth))


def f1_score(prediction: str, truth: str) -> float:
    """Measure the overlap of two answers, taken as multisets of normalised words (arXiv:1606.05250).

    Args:
        prediction: the predicted answer.
        truth: one annotated answer.

    Returns:
        The harmonic mean of precision and recall; 0.0 without a common word, therefore also for two empty answers.
    """
    predicted, true = Counter(normalise(prediction).split()), Counter(normalise(truth).split())
    common = sum((predicted & true).values())
    if not common:
        return 0.0
    precision, recall = common / sum(predicted.values()), common / sum(true.values())
    return 2 * precision * recall / (precision + recall)


def best_score(metric: Callable[[str, str], float], prediction: str, truths: list[str]) -> float:
    """Score a prediction against the annotated answer that suits it best (arXiv:1606.05250).

    Args:
        metric: `exact_match`, `f1_score` or another score of a prediction and one annotated answer.
        prediction: the predicted answer.
        truths: the annotated answers, at least one.

    Returns:
        The highest of the scores.
    """
    return max(metric(prediction, truth) for truth in truths)


# The files


def read_questions(path: Path) -> Questions:
    """Read the questions of a data set in the JSON schema of SQuAD 1.1 (arXiv:1606.05250) or 2.0 (arXiv:1806.03822).

    Args:
        path: the JSON file.

    Returns:
        The questions, at least one.

    Raises:
        InputError: the file cannot be read, has another structure, repeats an id, or holds no question.
    """
    return [
        (key, [answer.text("text") for answer in question.parts("answers")])
        for _, asked in squad.paragraphs(path)
        for key, question in asked
    ]


def read_predictions(path: Path) -> dict[str, str]:
    """Read the predicted answers.

    Args:
        path: a JSON file that holds an object of question ids and answers.

    Returns:
        The answer to each question id.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    predictions = reading.read_object(path, "prediction file", reading.LARGE)
    for question, answer in predictions.items():
        if not isinstance(answer, str):
            raise InputError(f"prediction file {path}: the answer to {question!r:.60} must be text, found {_name(answer)}")
    return predictions


def read_probabilities(path: Path) -> dict[str, float]:
    """Read how sure a model is that questions have no answer (arXiv:1806.03822).

    Args:
        path: a JSON file that holds an object of question ids and finite numbers: probabilities, or any other score
            that rises with the belief.

    Returns:
        The number for each question id, in the order of the file.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    probabilities = reading.read_object(path, "probability file", reading.LARGE)
    for question, value in probabilities.items():
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise InputError(f"probability file {path}: that of {question!r:.60} must be a finite number, found {_name(value)}")
    return {question: float(value) for question, value in probabilities.items()}


def _name(value: Any) -> str:
    """Say what was found in a JSON file: the kind of a container, the start of anything else."""
    kinds: dict[type, str] = {dict: "an object", list: "a list"}
    return kinds.get(type(value)) or json.dumps(value)[:40]


# The command line


def parser(description: str) -> Parser:
    """Make a parser of the arguments that both evaluations take.

    Args:
        description: what the script does, for its help.

    Returns:
        The parser, to which further arguments can be added.
    """
    made = Parser(description)
    made.add_argument("dataset", metavar="DATASET", type=Path, help="JSON file of the questions and their annotated answers")
    made.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="JSON file of question ids and predicted answers")
    made.add_argument("-v", dest="verbose", action="store_true", help="the same as --verbose")
    return made


def parse(made: Parser, argv: list[str]) -> argparse.Namespace:
    """Parse the arguments of a script that `helpers.commands.process.main` runs.

    Args:
        made: by `parser`.
        argv: the arguments.

    Returns:
        Their values.
    """
    arguments = made.parse_args(argv)
    if arguments.verbose:
        argv.append("--verbose")  # by its whole name, which `process.main` looks for
    return arguments


def warn_of_unanswered(questions: Questions, predictions: dict[str, str]) -> None:
    """Print how many questions have no prediction, if any, as one line on the standard error.

    Args:
        questions: the questions of the data set.
        predictions: the answer to each question id.
    """
    unanswered = sum(question not in predictions for question, _ in questions)
    if unanswered:
        complain("warning", f"{unanswered} of {len(questions)} questions unanswered, scored as 0")
