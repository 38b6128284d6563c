"""Labels and their scores against what Hugging Face's pipeline makes of the same logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers.tasks.classification import collect
from tests.pipelines import model_of, pipeline, save

LABELS = ("calm", "glad", "odd", "sad")
LOGITS = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32) * 3


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    return pipeline("text-classification", save(model_of("sequence-classification", LABELS), folder))


@pytest.mark.parametrize("top_k", [None, 1, 3, 9])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "none"])
def test_labels(classifier: Any, scoring: str, top_k: int | None) -> None:
    order = np.random.default_rng(1).permutation(len(LOGITS))
    batches = [(part.tolist(), LOGITS[part]) for part in np.split(order, [3, 4, 11])]
    found = dict(collect(batches, LABELS, scoring, top_k))
    assert sorted(found) == list(range(len(LOGITS)))
    for i, logits in enumerate(LOGITS):
        outputs = {"logits": torch.from_numpy(logits[None])}
        theirs = classifier.postprocess(outputs, scoring, top_k, _legacy=False)
        assert [label for label, _ in found[i]] == [each["label"] for each in theirs]
        assert [score for _, score in found[i]] == pytest.approx([each["score"] for each in theirs], rel=1e-5)


def test_labels_by_hand() -> None:
    logits = np.log(np.array([[1, 3, 4], [5, 5, 10]], np.float32))
    [(_, first), (text, second)] = collect([([4, 7], logits)], ("a", "b", "c"), "softmax")
    assert [label.label for label in first] == ["c", "b", "a"]
    assert [label.score for label in first] == pytest.approx([0.5, 0.375, 0.125])
    assert (text, [label for label, _ in second]) == (7, ["c", "a", "b"])  # of two that are equal the first comes first


def test_logits_that_are_not_numbers() -> None:
    with pytest.raises(RuntimeError, match="not numbers"):
        list(collect([([0], np.array([[0, np.nan, 0]], np.float32))], "abc", "softmax"))
