"""Transformed weights on ONNX Runtime, against the model as it was, in Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.config import BertConfig
from helpers.transforms import pad_heads, widen, with_two_segments
from helpers.weights import BertWeights, Layer, LayerNorm, Linear, random_weights, tensor_shapes
from tests.batches import difference, ragged, run, session_of, theirs
from tests.models import SHAPES, random_model, shape_name, small_config, weights_of

BOUND = 1e-4  # of a logit

Transform = Callable[[BertWeights, BertConfig], "tuple[BertWeights, BertConfig]"]


def check_same_logits(config: BertConfig, seed: int, transform: Transform, folder: Path) -> BertWeights:
    model = random_model(config, seed)
    weights, grown = transform(weights_of(model), config)
    session = session_of(weights, grown, folder)
    for length in (1, 7, config.max_position_embeddings):
        batch = ragged(config, 4, length, seed + length)
        assert difference(run(session, batch), theirs(model, batch), batch) <= BOUND
    return weights


# One segment


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_model_of_one_segment_takes_two(rows: int, tmp_path: Path) -> None:
    """A text of the second one is a text of the first, where there is no other."""
    config = small_config(type_vocab_size=rows)
    model = random_model(config, 8)
    weights = with_two_segments(weights_of(model))
    assert (len(weights.embeddings.token_type) if weights.embeddings.token_type is not None else 0) == max(rows, 2)
    session = session_of(weights, config, tmp_path)
    batch = ragged(small_config(type_vocab_size=2), 4, 20, 9)
    assert set(batch.segment_ids.tolist()) == {0, 1}
    asked = batch._replace(segment_ids=np.minimum(batch.segment_ids, rows - 1))
    assert difference(run(session, batch), theirs(model, asked), batch) <= BOUND


def test_a_model_without_segments() -> None:
    weights = weights_of(random_model(small_config()))
    bare = replace(weights, embeddings=replace(weights.embeddings, token_type=None))
    assert with_two_segments(bare) is bare


# Larger heads


def padded(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    return pad_heads(weights, config.num_attention_heads, 64), config


@pytest.mark.parametrize("config", [config for config in SHAPES if config.head_size < 64], ids=shape_name)
def test_pad_heads(config: BertConfig, tmp_path: Path) -> None:
    weights = check_same_logits(config, 3, padded, tmp_path)
    wide, hidden = 64 * config.num_attention_heads, config.hidden_size
    assert weights.head_size(config.num_attention_heads) == 64
    for layer in weights.layers:
        for part in (layer.query, layer.key, layer.value):
            assert (part.weight.shape, part.bias.shape) == ((wide, hidden), (wide,))
        assert (layer.attention_output.weight.shape, layer.attention_output.bias.shape) == ((hidden, wide), (hidden,))
    assert {array.dtype.name for array in weights.tensors().values()} == {"float32"}


@pytest.mark.parametrize("head_size", [64, 80])
def test_pad_heads_leaves_large_heads_alone(head_size: int) -> None:
    config = small_config(hidden_size=2 * head_size, num_attention_heads=2)
    weights = random_weights(config)
    for name, array in pad_heads(weights, 2, 64).tensors().items():
        np.testing.assert_array_equal(array, weights.tensors()[name])


def test_pad_heads_by_hand() -> None:
    """Two heads of one become two of four: zeros after each row, and the query doubled."""

    def linear(start: int) -> Linear:
        return Linear(np.array([[start, start + 1], [start + 2, start + 3]], np.float32), np.array([start, -start], np.float32))

    norm = LayerNorm(np.ones(2, np.float32), np.zeros(2, np.float32))
    old = Layer(linear(1), linear(5), linear(9), linear(13), norm, linear(17), linear(21), norm)
    weights = replace(random_weights(small_config(hidden_size=2, num_attention_heads=2)), layers=(old,))
    [layer] = pad_heads(weights, 2, 4).layers
    nothing = [[0, 0]] * 3
    assert layer.query.weight.tolist() == [[2, 4], *nothing, [6, 8], *nothing]
    assert layer.query.bias.tolist() == [2, 0, 0, 0, -2, 0, 0, 0]
    assert layer.key.weight.tolist() == [[5, 6], *nothing, [7, 8], *nothing]
    assert layer.key.bias.tolist() == [5, 0, 0, 0, -5, 0, 0, 0]
    assert layer.value.weight.tolist() == [[9, 10], *nothing, [11, 12], *nothing]
    assert layer.attention_output.weight.tolist() == [[13, 0, 0, 0, 14, 0, 0, 0], [15, 0, 0, 0, 16, 0, 0, 0]]
    assert (layer.attention_output.bias.tolist(), layer.output, layer.intermediate) == ([13, -13], old.output, old.intermediate)


# More channels


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("config", [SHAPES[i] for i in (0, 2, 3, 6, 9)], ids=shape_name)
def test_widen(config: BertConfig, times: int, tmp_path: Path) -> None:
    def transform(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
        wide, grown = widen(weights, config, times)
        assert grown == replace(
            config, hidden_size=times * config.hidden_size, intermediate_size=times * config.intermediate_size
        )
        assert grown.head_size == times * config.head_size
        assert {name: array.shape for name, array in wide.tensors().items()} == tensor_shapes(grown)
        assert {array.dtype.name for array in wide.tensors().values()} == {"float32"}
        return wide, grown

    check_same_logits(config, 4, transform, tmp_path)


def widened_then_padded(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    wide, grown = widen(weights, config, 2)
    return padded(wide, grown)


def padded_then_widened(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    return widen(padded(weights, config)[0], config, 2)


@pytest.mark.parametrize(("transform", "head_size"), [(widened_then_padded, 64), (padded_then_widened, 128)])
@pytest.mark.parametrize("config", SHAPES[:2], ids=shape_name)
def test_widen_and_pad_heads(config: BertConfig, transform: Transform, head_size: int, tmp_path: Path) -> None:
    weights = check_same_logits(config, 5, transform, tmp_path)
    assert weights.layers[0].query.weight.shape == (head_size * config.num_attention_heads, 2 * config.hidden_size)


def test_ranges_of_transformed_weights() -> None:
    """Only the query is scaled: down by the square root of how often it is repeated, up by that of how much a head grows."""
    query, key = (f"bert.encoder.layer.0.attention.self.qv_{side}_input_quantizer" for side in "ab")
    config = small_config()
    weights = replace(random_weights(config), ranges={query: 8.0, key: 6.0})
    wide, grown = widen(weights, config, 4)  # heads of 8 become heads of 32
    assert wide.ranges == {query: 4.0, key: 6.0}
    assert pad_heads(wide, grown.num_attention_heads, 64).ranges == {query: pytest.approx(4 * 2**0.5), key: 6.0}
    assert pad_heads(weights, config.num_attention_heads, 32).ranges == {query: 16.0, key: 6.0}
    assert pad_heads(wide, grown.num_attention_heads, 32).ranges == wide.ranges
