"""Score answers on SQuAD 1.1 by exact match and F1 (Rajpurkar et al., 2016, arXiv:1606.05250).

    python squad/evaluate-v1.1.py DATASET PREDICTIONS [F1_THRESHOLD]

With a threshold, the script also says whether F1 reaches it, and fails if not.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
import json

import metrics

from helpers.commands.arguments import finite
from helpers.errors import InputError


def evaluate(questions: metrics.Questions, predictions: dict[str, str]) -> dict[str, float]:
    """Average exact match and F1 over all questions (arXiv:1606.05250, section 6.1).

    Args:
        questions: the questions; each has an annotated answer.
        predictions: the answer to each question id. A question without one scores 0.

    Returns:
        `exact_match` and `f1`, in percent.
    """
    exact = f1 = 0.0
    for question, truths in questions:
        if question in predictions:
            exact += metrics.best_score(metrics.exact_match, predictions[question], truths)
            f1 += metrics.best_score(metrics.f1_score, predictions[question], truths)
    return {"exact_match": 100 * exact / len(questions), "f1": 100 * f1 / len(questions)}


def main(argv: list[str]) -> None:
    """Evaluate and print.

    Args:
        argv: the arguments of the command line.

    Raises:
        InputError: a file cannot be evaluated.
        SystemExit: with status 1, if there is a threshold and F1 is below it.
    """
    parser = metrics.parser("Score answers on SQuAD 1.1 by exact match and F1.")
    parser.add_argument(
        "f1_threshold",
        metavar="F1_THRESHOLD",
        nargs="?",
        type=finite,
        help="least F1, in percent, that passes; below it the exit status is 1",
    )
    arguments = metrics.parse(parser, argv)
    questions = metrics.read_questions(arguments.dataset)
    for question, truths in questions:
        if not truths:
            raise InputError(
                f"SQuAD file {arguments.dataset}: question {question!r:.60} has no answers",
                "squad/evaluate-v2.0.py scores SQuAD 2.0",
            )
    predictions = metrics.read_predictions(arguments.predictions)
    metrics.warn_of_unanswered(questions, predictions)
    scores = evaluate(questions, predictions)
    passed = arguments.f1_threshold is None or scores["f1"] >= arguments.f1_threshold
    if arguments.f1_threshold is not None:
        print("&&&&", "PASSED" if passed else "FAILED", "TensorRT BERT Squad Accuracy matches reference.")
    print(json.dumps(scores))
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    process.main(main)
