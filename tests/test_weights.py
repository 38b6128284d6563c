"""BertWeights: its layout against Hugging Face's own model, its checks, and random models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.builder import is_sparse
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.transforms import prune
from helpers.weights import BertWeights, Linear, check_depth, check_tensors, random_weights, tensor_shapes
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
    weights = BertWeights.from_tensors(arrays)
    weights.validate(config)
    found = weights.tensors()
    assert set(found) == set(arrays)
    assert all(found[name] is arrays[name] for name in arrays)
    again = BertWeights.from_tensors(found).tensors()
    assert all(again[name] is arrays[name] for name in arrays)


def test_every_part_holds_its_tensor() -> None:
    model: Any = random_model(small_config())
    weights = weights_of(model)
    bert = model.bert
    parts = [
        (weights.embeddings.word, bert.embeddings.word_embeddings.weight),
        (weights.embeddings.position, bert.embeddings.position_embeddings.weight),
        (weights.embeddings.token_type, bert.embeddings.token_type_embeddings.weight),
        (weights.embeddings.norm.gamma, bert.embeddings.LayerNorm.weight),
        (weights.embeddings.norm.beta, bert.embeddings.LayerNorm.bias),
        (weights.qa_outputs.weight, model.qa_outputs.weight),
        (weights.qa_outputs.bias, model.qa_outputs.bias),
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


# What validate finds

Change = Callable[[dict[str, np.ndarray]], None]


def put(name: str, array: np.ndarray) -> Change:
    return lambda arrays: arrays.update({name: array})


def spoil(name: str, value: float) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name].flat[-1] = value

    return change


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [put("qa_outputs.weight", np.ones((3, 32)))],
            "does not fit its configuration: qa_outputs.weight: expected [2, 32], found [3, 32]",
        ),
        (
            [
                put("bert.embeddings.position_embeddings.weight", np.ones((32, 64))),
                put("bert.encoder.layer.1.output.dense.bias", np.ones(())),
            ],
            "does not fit its configuration: bert.embeddings.position_embeddings.weight: expected [64, 32], found [32, 64]; "
            "bert.encoder.layer.1.output.dense.bias: expected [32], found []",
        ),
        ([spoil("qa_outputs.bias", np.nan)], "holds NaN or infinity in qa_outputs.bias"),
        (
            [spoil("bert.encoder.layer.0.attention.self.key.weight", np.inf), spoil("bert.embeddings.LayerNorm.bias", -np.inf)],
            "holds NaN or infinity in bert.embeddings.LayerNorm.bias, bert.encoder.layer.0.attention.self.key.weight",
        ),
    ],
    ids=["shape", "two shapes", "NaN", "infinities"],
)
def test_validate_lists_what_is_wrong(changes: list[Change], expected: str) -> None:
    arrays = arrays_of(random_model(small_config()))
    for change in changes:
        change(arrays)
    with pytest.raises(InputError) as caught:
        BertWeights.from_tensors(arrays).validate(small_config())
    assert str(caught.value) == f"weights {expected}"


def test_validate_counts_layers() -> None:
    weights = random_weights(small_config())
    with pytest.raises(InputError, match=r"^weights has 2 encoder layers, its configuration 1$"):
        weights.validate(small_config(num_hidden_layers=1))
    with pytest.raises(InputError) as caught:
        replace(weights, layers=weights.layers[:1]).validate(small_config())
    assert str(caught.value).startswith("weights lacks 16 of 39 tensors: bert.encoder.layer.1.attention.self.query.weight, ")
    assert str(caught.value).count("bert.encoder.layer.1.") == 16


@pytest.mark.parametrize(
    ("size", "count"),
    [("vocab_size", 1), ("hidden_size", 36), ("intermediate_size", 6), ("max_position_embeddings", 1), ("type_vocab_size", 1)],
)
def test_validate_holds_every_size_against_the_tensors(size: str, count: int) -> None:
    config = small_config()
    twice = replace(config, **{size: 2 * getattr(config, size)})
    with pytest.raises(InputError) as caught:
        random_weights(config).validate(twice)
    assert str(caught.value).count("expected [") == count


def test_check_tensors_names_source_and_spelling() -> None:
    arrays = arrays_of(random_model(small_config()))
    check_tensors({**arrays, "bert.pooler.dense.bias": np.array([np.nan])}, small_config(), "model.bin")
    del arrays["qa_outputs.bias"], arrays["bert.encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(InputError) as caught:
        check_tensors(arrays, small_config(), "model.bin", str.upper)
    assert str(caught.value) == "model.bin lacks 2 of 39 tensors: BERT.ENCODER.LAYER.0.ATTENTION.SELF.KEY.BIAS, QA_OUTPUTS.BIAS"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_check_depth_leaves_fewer_layers_to_check_tensors(depth: int) -> None:
    check_depth(depth, small_config(), "model.bin")
    with pytest.raises(InputError, match=r"^model.bin has 3 encoder layers, its configuration 2$"):
        check_depth(3, small_config(), "model.bin")


# Random models


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "one", "deep", "odd"])
def test_random_weights_fit_their_configuration(config: BertConfig) -> None:
    weights = random_weights(config)
    weights.validate(config)
    assert len(weights.layers) == config.num_hidden_layers
    assert {array.dtype for array in weights.tensors().values()} == {np.dtype(np.float32)}
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


# Pruned


def test_prune_keeps_the_two_largest_of_every_four() -> None:
    config = small_config(intermediate_size=20)
    dense = random_weights(config, 2)
    sparse = prune(dense).tensors()
    for name, array in dense.tensors().items():
        if not (name.startswith("bert.encoder") and name.endswith("weight") and "LayerNorm" not in name):
            np.testing.assert_array_equal(sparse[name], array, name)
            continue
        assert sparse[name].shape == array.shape
        for row, kept in zip(array, sparse[name]):
            for i in range(0, len(row), 4):
                largest = sorted(range(i, i + 4), key=lambda place: -abs(row[place]))[:2]
                assert kept[i : i + 4].tolist() == [row[place] if place in largest else 0 for place in range(i, i + 4)]


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_prune_where_four_are_alike(value: float) -> None:
    weights = random_weights(small_config())
    layer = replace(weights.layers[0], output=Linear(np.full((32, 48), value, np.float32), weights.layers[0].output.bias))
    [pruned, _] = prune(replace(weights, layers=(layer, weights.layers[1]))).layers
    assert (np.sort(np.abs(pruned.output.weight).reshape(-1, 4)) == [0, 0, abs(value), abs(value)]).all()
    assert is_sparse(pruned.output.weight)


def test_prune_again_and_ranges() -> None:
    once = prune(replace(random_weights(small_config()), ranges={"bert.encoder.final_input_quantizer": 2.0}))
    again = prune(once)
    assert again.ranges == once.ranges == {"bert.encoder.final_input_quantizer": 2.0}
    assert all(np.array_equal(array, again.tensors()[name]) for name, array in once.tensors().items())
