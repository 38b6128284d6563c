"""What the two SQuAD evaluations share: the metric on one prediction, the reading of files, the command line.

The metric is the one of SQuAD 1.1 (Rajpurkar, Zhang, Lopyrev and Liang, 2016, arXiv:1606.05250), which SQuAD 2.0
(Rajpurkar, Jia and Liang, 2018, arXiv:1806.03822) builds on.
"""

import argparse
import json
import math
import re
import string
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

Questions = list[tuple[str, list[str]]]
"""The questions of a data set in its order: id, and the texts of the annotated answers."""

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_JSON_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


class InputError(ValueError):
    """A file or an argument that cannot be evaluated; the message is for the user."""


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


def read_questions(path: str) -> Questions:
    """Read the questions of a data set in the JSON schema of SQuAD 1.1 (arXiv:1606.05250) or 2.0 (arXiv:1806.03822).

    Args:
        path: the JSON file.

    Returns:
        The questions, at least one.

    Raises:
        InputError: the file cannot be read, has another structure, or holds no question.
    """
    questions = []
    for article, in_article in _items(_read_json(path), "data", path):
        for paragraph, in_paragraph in _items(article, "paragraphs", in_article):
            for question, in_question in _items(paragraph, "qas", in_paragraph):
                answers = _items(question, "answers", in_question)
                texts = [_member(answer, "text", str, in_answer) for answer, in_answer in answers]
                questions.append((_member(question, "id", str, in_question), texts))
    if not questions:
        raise InputError(f"{path}: has no questions")
    return questions


def read_predictions(path: str) -> dict[str, str]:
    """Read the predicted answers.

    Args:
        path: a JSON file that holds an object of question ids and answers.

    Returns:
        The answer to each question id.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    predictions = _read_json(path)
    _expect(predictions, dict, f"{path}:")
    for question, answer in predictions.items():
        _expect(answer, str, f"{path}: {question!r}")
    return dict(predictions)


def read_probabilities(path: str) -> dict[str, float]:
    """Read how sure a model is that questions have no answer (arXiv:1806.03822).

    Args:
        path: a JSON file that holds an object of question ids and finite numbers: probabilities, or any other score
            that rises with the belief.

    Returns:
        The number for each question id, in the order of the file.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    probabilities = _read_json(path)
    _expect(probabilities, dict, f"{path}:")
    for question, value in probabilities.items():
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise InputError(f"{path}: {question!r} must be a finite number, found {_name(value)}")
    return {question: float(value) for question, value in probabilities.items()}


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8; numbers too long, lists nested too deeply
        raise InputError(f"{path}: malformed JSON: {error}") from error


def _items(holder: Any, key: str, place: str) -> Iterator[tuple[Any, str]]:
    """Go through the list `holder[key]`, naming the place of each item for the messages of errors."""
    for index, item in enumerate(_member(holder, key, list, place)):
        yield item, f"{place}, {key}[{index}]"


def _member(holder: Any, key: str, kind: type, place: str) -> Any:
    """Give `holder[key]`, having made sure that it is there and of its kind."""
    _expect(holder, dict, f"{place}:")
    if key not in holder:
        raise InputError(f"{place}: has no {key!r}")
    _expect(holder[key], kind, f"{place}: {key!r}")
    return holder[key]


def _expect(value: Any, kind: type, subject: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{subject} must be {_JSON_NAMES[kind]}, found {_name(value)}")


def _name(value: Any) -> str:
    """Say what was found in a JSON file: the kind of a container, the start of anything else."""
    return _JSON_NAMES[type(value)] if isinstance(value, (dict, list)) else json.dumps(value)[:40]


# The command line


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, and which knows the arguments of both evaluations.

    Args:
        description: what the script does, for its help.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description=description)
        self.add_argument("dataset", metavar="DATASET", help="JSON file of the questions and their annotated answers")
        self.add_argument("predictions", metavar="PREDICTIONS", help="JSON file of question ids and predicted answers")
        self.add_argument("-v", "--verbose", action="store_true", help="show where in the code an error arose")

    def error(self, message: str) -> NoReturn:
        """Leave with status 2 and one line.

        Args:
            message: what is wrong with the arguments.
        """
        self.exit(2, f"error: {' '.join(message.split())}\n")


def finite_number(text: str) -> float:
    """Convert an argument to a number, for `type=` of an argument parser.

    Args:
        text: the argument.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: it is none, infinite or NaN (which no comparison would ever fail).
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, found {text!r}")
    return number


def run(main: Callable[[argparse.Namespace], int], parser: Parser) -> int:
    """Parse the arguments and run a script, with bad input as one line on the standard error.

    Args:
        main: the script: from arguments to exit status.
        parser: its argument parser.

    Returns:
        The exit status: that of `main`, or 2 on bad input.
    """
    arguments = parser.parse_args()
    try:
        return main(arguments)
    except InputError as error:
        if arguments.verbose:
            traceback.print_exc()
        # Paths come from outside and may hold line breaks; the message stays one line.
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def warn_of_unanswered(questions: Questions, predictions: dict[str, str]) -> None:
    """Print how many questions have no prediction, if any, as one line on the standard error.

    Args:
        questions: the questions of the data set.
        predictions: the answer to each question id.
    """
    unanswered = sum(question not in predictions for question, _ in questions)
    if unanswered:
        print(f"warning: {unanswered} of {len(questions)} questions unanswered, scored as 0", file=sys.stderr)
