"""Score answers on SQuAD 2.0, where some questions have no answer (Rajpurkar, Jia and Liang, 2018, arXiv:1806.03822).

    python squad/evaluate-v2.0.py DATASET PREDICTIONS [-n NA_PROB_FILE] [-t NA_PROB_THRESH] [-o OUT_FILE]

A prediction of "no answer" is the empty string. Exact match and F1 are those of SQuAD 1.1 (Rajpurkar et al., 2016,
arXiv:1606.05250).
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from pathlib import Path

import metrics

from helpers import files
from helpers.commands.arguments import finite
from helpers.errors import InputError


def f1_score(prediction: str, truth: str) -> float:
    """Measure the overlap of two answers, either of which may say that there is none (arXiv:1806.03822).

    Args:
        prediction: the predicted answer.
        truth: one annotated answer, or the empty string.

    Returns:
        The F1 of SQuAD 1.1, but exact match where either answer normalises to nothing.
    """
    if metrics.normalise(prediction) and metrics.normalise(truth):
        return metrics.f1_score(prediction, truth)
    return metrics.exact_match(prediction, truth)


def best_threshold(
    scores: dict[str, float],
    has_answer: dict[str, bool],
    predictions: dict[str, str],
    na_probs: dict[str, float],
) -> tuple[float, float]:
    """Find the threshold on the no-answer probability that serves a metric best (arXiv:1806.03822).

    The sweep starts with every question declared unanswerable, at a threshold that it calls 0, and trusts one more
    prediction at a time, the least doubtful first. Two conventions keep its figures comparable with published ones:
    questions of equal probability are trusted one by one, in the order of the probability file; and on a question
    without answer any text counts as wrong, even a mere article.

    Args:
        scores: the score of each predicted question, were its prediction trusted.
        has_answer: whether each question of the data set has an answer.
        predictions: the answer to each question id.
        na_probs: the no-answer probability of each predicted question; others are passed over.

    Returns:
        The best average score in percent, and the threshold up to which predictions are trusted for it.
    """
    total = best = float(sum(not has_answer[question] for question in scores))
    threshold = 0.0
    for question in sorted(na_probs, key=na_probs.__getitem__):
        if question not in scores:
            continue
        if has_answer[question]:
            total += scores[question]
        elif predictions[question]:
            total -= 1
        if total > best:
            best, threshold = total, na_probs[question]
    return 100 * best / len(has_answer), threshold


def evaluate(
    questions: metrics.Questions,
    predictions: dict[str, str],
    na_probs: dict[str, float] | None = None,
    na_prob_thresh: float = 1.0,
) -> dict[str, float]:
    """Average exact match and F1 over all questions, those with and those without an answer (arXiv:1806.03822).

    Args:
        questions: the questions; one has no answer if its list of annotated answers is empty.
        predictions: the answer to each question id, empty for "no answer". A question without prediction scores 0.
        na_probs: the no-answer probability of each predicted question; 0 for all if None.
        na_prob_thresh: a prediction whose no-answer probability is above it counts as "no answer".

    Returns:
        `exact` and `f1` in percent and the `total` of questions; the same with the prefixes `HasAns_` and `NoAns_` for
        the questions with and without an answer, if any; and with `na_probs`, `best_exact`, `best_exact_thresh`,
        `best_f1` and `best_f1_thresh`.
    """
    has_answer = {question: bool(answers) for question, answers in questions}
    groups = {
        "": list(has_answer),
        "HasAns_": [question for question in has_answer if has_answer[question]],
        "NoAns_": [question for question in has_answer if not has_answer[question]],
    }
    # An annotation that normalises to nothing would reward an empty prediction: it is dropped.
    truths = {question: list(filter(metrics.normalise, answers)) or [""] for question, answers in questions}
    predicted = [question for question in truths if question in predictions]
    raw = {
        name: {q: metrics.best_score(metric, predictions[q], truths[q]) for q in predicted}
        for name, metric in (("exact", metrics.exact_match), ("f1", f1_score))
    }
    doubts = dict.fromkeys(predicted, 0.0) if na_probs is None else na_probs
    declined = {question for question in predicted if doubts[question] > na_prob_thresh}

    results: dict[str, float] = {}
    for prefix, group in groups.items():
        if not group:
            continue
        for name, scores in raw.items():
            final = [float(not has_answer[q]) if q in declined else scores.get(q, 0.0) for q in group]
            results[prefix + name] = 100 * sum(final) / len(group)
        results[prefix + "total"] = len(group)
    if na_probs is not None:
        for name, scores in raw.items():
            best, threshold = best_threshold(scores, has_answer, predictions, na_probs)
            results.update({f"best_{name}": best, f"best_{name}_thresh": threshold})
    return results


def main(argv: list[str]) -> None:
    """Evaluate, and print or write the results.

    Args:
        argv: the arguments of the command line.

    Raises:
        InputError: a file cannot be evaluated or written.
    """
    parser = metrics.parser("Score answers on SQuAD 2.0, where some questions have no answer.")
    parser.add_argument(
        "-n",
        "--na-prob-file",
        metavar="FILE",
        type=Path,
        help="JSON file of question ids and the probability that there is no answer; adds the best thresholds",
    )
    parser.add_argument(
        "-t",
        "--na-prob-thresh",
        metavar="NUMBER",
        type=finite,
        default=1.0,
        help="a no-answer probability above it counts as the prediction of no answer (default: %(default)s)",
    )
    parser.add_argument("-o", "--out-file", metavar="FILE", type=Path, help="write the scores here instead of printing them")
    arguments = metrics.parse(parser, argv)
    if arguments.out_file is not None:
        inputs = arguments.dataset, arguments.predictions, arguments.na_prob_file
        files.check_outputs([arguments.out_file], inputs, streams=True)
    questions = metrics.read_questions(arguments.dataset)
    predictions = metrics.read_predictions(arguments.predictions)
    na_probs = None
    if arguments.na_prob_file is not None:
        na_probs = metrics.read_probabilities(arguments.na_prob_file)
        for question, _ in questions:
            if question in predictions and question not in na_probs:
                raise InputError(f"probability file {arguments.na_prob_file} has no number for question {question!r:.60}")
    metrics.warn_of_unanswered(questions, predictions)
    results = evaluate(questions, predictions, na_probs, arguments.na_prob_thresh)
    if arguments.out_file is None:
        print(files.json_bytes(results).decode(), end="")
    else:
        files.write_json(arguments.out_file, results)


if __name__ == "__main__":
    process.main(main)
