"""BertWeights: its layout against Hugging Face's own model, and random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.config import TASKS, BertConfig
from helpers.weights import POOLER, POOLER_NORM, BertWeights, Head, Linear, random_weights, tensor_shapes
from tests.models import arrays_of, random_model, small_config, weights_of

CONFIGS = [
    small_config(),
    small_config(num_hidden_layers=1, num_attention_heads=1, type_vocab_size=1),
    small_config(num_hidden_layers=11, hidden_size=12, num_attention_heads=3, intermediate_size=20),
    small_config(vocab_size=101, max_position_embeddings=33, type_vocab_size=4, intermediate_size=16),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "one", "deep", "odd"])
def test_shapes_are_those_of_hugging_face(config: BertConfig) -> None:
    theirs = random_model(config).state_dict()
    assert tensor_shapes(config) == {name: tuple(tensor.shape) for name, tensor in theirs.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "one", "deep", "odd"])
def test_tensors_and_back(config: BertConfig) -> None:
    arrays = arrays_of(random_model(config))
    found = BertWeights.from_tensors(arrays).tensors()
    assert set(found) == set(arrays)
    assert all(found[name] is arrays[name] for name in arrays)
    again = BertWeights.from_tensors(found).tensors()
    assert all(again[name] is arrays[name] for name in arrays)


def test_every_part_holds_its_tensor() -> None:
    model: Any = random_model(small_config())
    weights = weights_of(model)
    bert, out = model.bert, weights.head.out
    assert out and not (weights.head.dense or weights.head.norm or weights.further)
    parts: list[tuple[Any, Any]] = [
        (weights.embeddings.word, bert.embeddings.word_embeddings.weight),
        (weights.embeddings.position, bert.embeddings.position_embeddings.weight),
        (weights.embeddings.token_type, bert.embeddings.token_type_embeddings.weight),
        (weights.embeddings.norm.gamma, bert.embeddings.LayerNorm.weight),
        (weights.embeddings.norm.beta, bert.embeddings.LayerNorm.bias),
        (out.weight, model.qa_outputs.weight),
        (out.bias, model.qa_outputs.bias),
    ]
    for ours, theirs in zip(weights.layers, bert.encoder.layer):
        linears: list[tuple[Linear, Any]] = [
            (ours.query, theirs.attention.self.query),
            (ours.key, theirs.attention.self.key),
            (ours.value, theirs.attention.self.value),
            (ours.attention_output, theirs.attention.output.dense),
            (ours.intermediate, theirs.intermediate.dense),
            (ours.output, theirs.output.dense),
        ]
        norms = [(ours.attention_norm, theirs.attention.output.LayerNorm), (ours.output_norm, theirs.output.LayerNorm)]
        for linear, module in linears:
            parts += [(linear.weight, module.weight), (linear.bias, module.bias)]
        for norm, module in norms:
            parts += [(norm.gamma, module.weight), (norm.beta, module.bias)]
    assert len(parts) == 39
    unequal = [i for i, (found, expected) in enumerate(parts) if not np.array_equal(found, expected.detach().numpy())]
    assert unequal == []


def test_ranges_are_kept_and_not_shared() -> None:
    given = {"bert.encoder.final_input_quantizer": 4.5}
    weights = weights_of(random_model(small_config()), given)
    given.clear()
    assert weights.ranges == {"bert.encoder.final_input_quantizer": 4.5}


@pytest.mark.parametrize("name", ["qa_outputs.bias", "bert.encoder.layer.1.output.LayerNorm.weight"])
def test_from_tensors_lacking_one(name: str) -> None:
    arrays = arrays_of(random_model(small_config()))
    del arrays[name]
    with pytest.raises(KeyError, match=name):
        BertWeights.from_tensors(arrays)


def test_what_not_every_model_has() -> None:
    """Tables of embeddings that are not there, a head's other parts, and tensors that BERT has not."""
    arrays = arrays_of(random_model(small_config()))
    for name in ("position", "token_type"):
        del arrays[f"bert.embeddings.{name}_embeddings.weight"]
    arrays |= {f"{name}.{kind}": np.full(3, i) for i, name in enumerate((POOLER, POOLER_NORM)) for kind in ("weight", "bias")}
    arrays["other.table"] = np.arange(4)
    weights = BertWeights.from_tensors(arrays)
    assert (weights.embeddings.position, weights.embeddings.token_type) == (None, None)
    assert [table is weights.embeddings.word for table in weights.embeddings.tables()] == [True]
    assert weights.head.dense and weights.head.norm and weights.head.out
    assert weights.head.dense.weight.tolist() == [0] * 3 and weights.head.norm.beta.tolist() == [1] * 3
    assert list(weights.further) == ["other.table"]
    found = weights.tensors()
    assert found.keys() == arrays.keys()
    assert all(found[name] is arrays[name] for name in arrays)
    bare = BertWeights.from_tensors({name: array for name, array in arrays.items() if name.startswith("bert.")})
    assert bare.head == Head()


def test_every_task_has_its_head() -> None:
    labels = ("a", "b", "c")
    heads = {
        task: {name: shape for name, shape in shapes.items() if not name.startswith("bert.")}
        for task in TASKS
        for shapes in [tensor_shapes(small_config(task=task, labels=() if task == "feature-extraction" else labels))]
    }
    outputs = {"qa_outputs.weight": (3, 32), "qa_outputs.bias": (3,)}
    assert heads == {
        "question-answering": outputs,
        "token-classification": outputs,
        "sequence-classification": {"pooler.dense.weight": (32, 32), "pooler.dense.bias": (32,), **outputs},
        "feature-extraction": {},
    }


# Random models


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "one", "deep", "odd"])
def test_random_weights_fit_their_configuration(config: BertConfig) -> None:
    weights = random_weights(config)
    arrays = weights.tensors()
    assert len(weights.layers) == config.num_hidden_layers
    assert {name: array.shape for name, array in arrays.items()} == tensor_shapes(config)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert weights.ranges == {}


def test_random_weights_depend_on_their_seed_alone() -> None:
    first, again, other = (random_weights(small_config(), seed).tensors() for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    default = random_weights(small_config()).tensors()
    zero = random_weights(small_config(), 0).tensors()
    assert all(np.array_equal(default[name], zero[name]) for name in zero)


def test_random_weights_are_spread_as_bert_is_initialized() -> None:
    config = small_config(hidden_size=128, intermediate_size=512)
    arrays = random_weights(config, seed=7).tensors()
    gammas = np.concatenate([array for name, array in arrays.items() if name.endswith("LayerNorm.weight")])
    others = np.concatenate([array.ravel() for name, array in arrays.items() if not name.endswith("LayerNorm.weight")])
    assert gammas.size == 5 * 128
    # Five standard errors of a mean and of a standard deviation, of samples this large.
    for sample, centre in ((gammas, 1.0), (others, 0.0)):
        assert abs(sample.mean() - centre) < 5 * 0.02 / sample.size**0.5
        assert abs(sample.std() - 0.02) < 5 * 0.02 / (2 * sample.size) ** 0.5
