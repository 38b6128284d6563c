"""What engines of every family give, for every task, against Hugging Face's own models, which saved the checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest

from helpers import backends, checkpoints
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.config import ACTIVATIONS, FEATURE_EXTRACTION, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TASKS, BertConfig
from helpers.errors import InputError
from helpers.families import FAMILIES
from helpers.layouts import Batch, Profile
from helpers.request import BuildRequest
from helpers.weights import BertWeights
from tests.batches import onnx_blob, run
from tests.variants import LABELS, PLAIN, VARIANTS, Variant, batch_of, each_alone, save

BOUND = 1e-5  # of the largest of all that the model gives


class Loaded(NamedTuple):
    """A checkpoint that was saved and read again, and the model that it is of."""

    model: Any
    config: BertConfig
    weights: BertWeights

    def session(self, packed: bool) -> OnnxRuntimeSession:
        with TemporaryDirectory() as folder:
            path = Path(folder, "engine")
            path.write_bytes(onnx_blob(self.weights, self.config, [Profile(8, self.config.max_position_embeddings)], packed))
            return OnnxRuntimeSession(path)


def loaded(variant: Variant, task: str, read_as: str | None = None, **changes: Any) -> Loaded:
    model = variant.model(task, **changes)
    with TemporaryDirectory() as folder:
        path = save(model, Path(folder))
        config = BertConfig.load(path, read_as or task)
        return Loaded(model, config, checkpoints.load("pytorch", path, config))


def batches_for(config: BertConfig) -> list[Batch]:
    """One token, the most that a sequence has, and sequences of many lengths side by side."""
    longest = config.max_position_embeddings
    return [batch_of(lengths, config, i) for i, lengths in enumerate(([1], [longest], [5, longest, 1, 33], [12] * 8))]


class Case(NamedTuple):
    found: Loaded
    batches: list[Batch]
    expected: list[np.ndarray]


@functools.lru_cache(maxsize=2)  # padded and packed come one after the other
def case(name: str, task: str) -> Case:
    found = loaded(VARIANTS[name], task)
    batches = batches_for(found.config)
    return Case(found, batches, [each_alone(found.model, batch) for batch in batches])


def check(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert [each.shape for each in found] == [each.shape for each in expected]
    values = np.concatenate(expected)
    assert values.std() > 1000 * BOUND * np.abs(values).max()  # so that equal means something
    for ours, theirs in zip(found, expected):
        assert ours.dtype == np.float32
        assert np.abs(ours - theirs).max() <= BOUND * np.abs(values).max()


def test_every_family_is_tried() -> None:
    assert list(PLAIN) == [*FAMILIES] == [loaded(each, QUESTION_ANSWERING).config.model_type for each in PLAIN.values()]


@pytest.mark.parametrize(
    ("name", "task", "packed"),
    [(name, task, packed) for name in VARIANTS for task in TASKS for packed in (False, True)],
    ids=lambda each: {False: "padded", True: "packed"}.get(each, each),
)
def test_logits(name: str, task: str, packed: bool) -> None:
    """Heads are of their class; a model without one was saved under the names of its encoder alone."""
    found, batches, expected = case(name, task)
    assert found.config.labels == {"question-answering": ("start", "end"), "feature-extraction": ()}.get(task, LABELS)
    session = found.session(packed)
    assert (session.layout.width, session.layout.pooled) == (expected[0].shape[-1], task == SEQUENCE_CLASSIFICATION)
    check([run(session, batch) for batch in batches], expected)


# What else a configuration changes


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_activations(name: str, act: str) -> None:
    """Of a feed-forward, and of a gated one."""
    found = loaded(PLAIN[name], QUESTION_ANSWERING, **{"hidden_activation" if name == "modernbert" else "hidden_act": act})
    batch = batch_of([40, 7], found.config)
    check([run(found.session(True), batch)], [each_alone(found.model, batch)])


@pytest.mark.parametrize(
    ("name", "key", "act"),
    [
        *(("deberta-v2", "pooler_hidden_act", act) for act in ("tanh", "relu")),
        *(("modernbert", "classifier_activation", act) for act in ("relu", "silu", "tanh", "gelu_new", "gelu_pytorch_tanh")),
    ],
)
def test_activations_of_a_head(name: str, key: str, act: str) -> None:
    found = loaded(PLAIN[name], SEQUENCE_CLASSIFICATION, **{key: act})
    batch = batch_of([40, 7, 1, 12], found.config)
    check([run(found.session(True), batch)], [each_alone(found.model, batch)])


@pytest.mark.parametrize("name", PLAIN)
def test_features_of_a_model_with_a_head(name: str) -> None:
    """They are its encoder's."""
    found = loaded(PLAIN[name], QUESTION_ANSWERING, read_as=FEATURE_EXTRACTION)
    assert not any(vars(found.weights.head).values())
    batch = batch_of([9, 30], found.config)
    check([run(found.session(True), batch)], [each_alone(found.model.base_model, batch)])


@pytest.mark.parametrize("name", ["roberta", "camembert", "xlm-roberta", "mpnet"])
def test_514_positions_are_512_tokens(name: str, tmp_path: Path) -> None:
    found = loaded(PLAIN[name], QUESTION_ANSWERING, max_position_embeddings=514, num_hidden_layers=1)
    assert found.config.max_position_embeddings == 512
    batch = batch_of([512, 3], found.config)
    expected = each_alone(found.model, batch)
    for packed in (False, True):
        check([run(found.session(packed), batch)], [expected])
    save(found.model, tmp_path)
    with pytest.raises(InputError, match=r"^sequence length 513 is above the model's max_position_embeddings, 512$"):
        backends.find("onnxruntime").build(BuildRequest("pytorch", tmp_path, (Profile(1, 513),)))


def test_positions_count_from_another_padding() -> None:
    found = loaded(PLAIN["roberta"], QUESTION_ANSWERING, pad_token_id=3)
    assert found.config.max_position_embeddings == 66 - 4
    batch = batch_of([62], found.config)
    check([run(found.session(False), batch)], [each_alone(found.model, batch)])


def test_layers_that_share_their_weights_are_stored_once() -> None:
    """Eleven further layers are nodes alone, which their weights would be many times as large as."""

    def albert(layers: int) -> Loaded:
        return loaded(PLAIN["albert"], QUESTION_ANSWERING, num_hidden_layers=layers, hidden_size=128, intermediate_size=512)

    one, twelve = albert(1), albert(12)
    layer = sum(array.nbytes for name, array in one.weights.tensors().items() if ".layer.0." in name)
    sizes = [len(onnx_blob(each.weights, each.config, [Profile(1, 8)])) for each in (one, twelve)]
    assert sizes[0] > layer
    assert 0 < sizes[1] - sizes[0] < layer / 10
