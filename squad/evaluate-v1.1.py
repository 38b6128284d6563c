"""Score answers on SQuAD 1.1 by exact match and F1 (Rajpurkar et al., 2016, arXiv:1606.05250).

    python squad/evaluate-v1.1.py DATASET PREDICTIONS [F1_THRESHOLD]

With a threshold, the script also says whether F1 reaches it, and fails if not.
"""

import argparse
import json
import sys

import metrics


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


def main(arguments: argparse.Namespace) -> int:
    """Evaluate and print.

    Args:
        arguments: dataset, predictions and f1_threshold.

    Returns:
        The exit status: 1 if there is a threshold and F1 is below it.

    Raises:
        metrics.InputError: a file cannot be evaluated.
    """
    questions = metrics.read_questions(arguments.dataset)
    for question, truths in questions:
        if not truths:
            raise metrics.InputError(
                f"{arguments.dataset}: question {question!r} has no answers; evaluate-v2.0.py scores SQuAD 2.0"
            )
    predictions = metrics.read_predictions(arguments.predictions)
    metrics.warn_of_unanswered(questions, predictions)
    scores = evaluate(questions, predictions)
    passed = arguments.f1_threshold is None or scores["f1"] >= arguments.f1_threshold
    if arguments.f1_threshold is not None:
        print("&&&&", "PASSED" if passed else "FAILED", "TensorRT BERT Squad Accuracy matches reference.")
    print(json.dumps(scores))
    return 0 if passed else 1


if __name__ == "__main__":
    parser = metrics.Parser("Score answers on SQuAD 1.1 by exact match and F1.")
    parser.add_argument(
        "f1_threshold",
        metavar="F1_THRESHOLD",
        nargs="?",
        type=metrics.finite_number,
        help="least F1, in percent, that passes; below it the exit status is 1",
    )
    sys.exit(metrics.run(main, parser))
