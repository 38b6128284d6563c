"""The network on ONNX Runtime, and weights transformed for it, against Hugging Face's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers import engine
from helpers.config import HIDDEN_ACTS, BertConfig
from helpers.engine import BuildOptions
from helpers.graphs.onnx import PaddedOnnxGraph
from helpers.sessions.layouts import Profile
from helpers.sessions.onnxruntime import OnnxRuntimeSession
from helpers.transforms import pad_heads, widen
from helpers.weights import BertWeights, Layer, LayerNorm, Linear, random_weights
from helpers.windows import Batch
from tests.models import random_model, small_config, weights_of

torch.set_num_threads(1)  # ONNX Runtime's own threads take the rest

BOUND = 1e-4  # of a logit

# (heads, head size, layers, feed-forward) and what else is not as in the small configuration
SHAPES: list[tuple[int, int, int, int, dict[str, Any]]] = [
    (2, 16, 1, 40, {}),
    (5, 16, 3, 96, {"max_position_embeddings": 9}),
    (3, 32, 2, 80, {"layer_norm_eps": 1e-2}),
    (1, 32, 4, 200, {"type_vocab_size": 3}),
    (1, 64, 2, 24, {}),
    (2, 64, 1, 256, {"layer_norm_eps": 1e-5}),
    (1, 80, 2, 64, {}),
    (2, 80, 1, 33, {"vocab_size": 7}),
    (4, 8, 4, 7, {"hidden_act": "gelu_pytorch_tanh"}),
    (3, 1, 2, 5, {}),
]


def config_of(heads: int, head_size: int, layers: int, inner: int, changes: dict[str, Any]) -> BertConfig:
    sizes = {"num_attention_heads": heads, "hidden_size": heads * head_size, "num_hidden_layers": layers}
    return small_config(**{**sizes, "intermediate_size": inner, **changes})


def session_of(weights: BertWeights, config: BertConfig, folder: Path, packed: bool = False) -> OnnxRuntimeSession:
    path = folder / "model.engine"
    options = BuildOptions([Profile(5, config.max_position_embeddings)], packed=packed)
    path.write_bytes(engine.build_onnx(weights, config, options))
    return OnnxRuntimeSession(path)


def run(session: OnnxRuntimeSession, batch: Batch) -> np.ndarray:
    [logits] = session.stream([batch])
    return logits


def theirs(model: Any, batch: Batch) -> np.ndarray:
    ids, segments, mask = (torch.from_numpy(array).long() for array in batch)
    with torch.no_grad():
        found = model(input_ids=ids, token_type_ids=segments, attention_mask=mask)
    return torch.stack((found.start_logits, found.end_logits), -1).numpy()


def ragged(config: BertConfig, size: int, length: int, seed: int) -> Batch:
    """Random tokens and segments; lengths from one token to all, padded with what no logit may show."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, size)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = generator.integers(0, config.vocab_size, (size, length), np.int32)
    return Batch(ids, generator.integers(0, config.type_vocab_size, (size, length), np.int32), mask)


def difference(found: np.ndarray, expected: np.ndarray, batch: Batch) -> float:
    """The largest absolute difference at a position that is not masked."""
    assert found.shape == expected.shape == (*batch.input_ids.shape, 2)
    assert found.dtype == np.float32
    return float(np.abs(found - expected)[batch.input_mask == 1].max())


# Against Hugging Face


Pair = tuple[BertConfig, Any, OnnxRuntimeSession]


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", params=range(len(SHAPES)), ids=[f"{n}x{d}-{k}layers" for n, d, k, _, _ in SHAPES])
def pair(request: pytest.FixtureRequest, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = config_of(*SHAPES[request.param])
    model = random_model(config, seed=request.param)
    return config, model, session_of(weights_of(model), config, tmp_path_factory.mktemp("engine"), packed)


@given(size=st.integers(1, 5), length=st.integers(1, 64), seed=st.integers(0, 2**32 - 1))
@example(size=1, length=1, seed=0)
@example(size=5, length=64, seed=1)
@settings(deadline=None, max_examples=12)
def test_logits(pair: Pair, size: int, length: int, seed: int) -> None:
    config, model, session = pair
    batch = ragged(config, size, min(length, config.max_position_embeddings), seed)
    assert difference(run(session, batch), theirs(model, batch), batch) <= BOUND


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=6)
def test_padding_changes_no_logit(pair: Pair, seed: int) -> None:
    """Neither other sequences of the batch, nor what stands in the padding, nor its length."""
    config, _, session = pair
    batch = ragged(config, 4, config.max_position_embeddings, seed)
    logits = run(session, batch)
    for row, length in enumerate(batch.input_mask.sum(1)):
        alone = run(session, Batch(*(array[row : row + 1, :length] for array in batch)))
        assert np.abs(alone[0] - logits[row, :length]).max() <= BOUND


def test_every_input_counts(pair: Pair) -> None:
    """Or the comparisons above would show little."""
    config, _, session = pair
    batch = ragged(config, 3, 8, 5)._replace(input_mask=np.ones((3, 8), np.int32))
    logits = run(session, batch)
    others = (
        batch._replace(input_ids=(batch.input_ids + 1) % config.vocab_size),
        batch._replace(segment_ids=(batch.segment_ids + 1) % config.type_vocab_size),
        batch._replace(input_mask=(np.arange(8) < [[5]] * 3).astype(np.int32)),
    )
    for other in others:
        assert np.abs(run(session, other) - logits)[:, :5].max() > 1e-2


def test_the_erf_form_is_nearly_the_tanh_form(tmp_path: Path) -> None:
    """A model trained with "gelu" is run in the tanh form: 5e-4 an activation, and 5e-3 a logit of two such layers."""
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    erf, tanh = (torch.nn.functional.gelu(x, approximate=form) for form in ("none", "tanh"))
    assert 4e-4 < (erf - tanh).abs().max() < 5e-4

    worst: list[float] = []
    for seed in range(5):
        config = small_config(hidden_act="gelu")
        model = random_model(config, seed)
        session = session_of(weights_of(model), config, tmp_path)
        batch = ragged(config, 5, 64, seed)
        worst.append(difference(run(session, batch), theirs(model, batch), batch))
    assert 1e-5 < max(worst) < 5e-3


@pytest.mark.parametrize("act", HIDDEN_ACTS)
def test_every_activation_gives_the_same_engine(act: str) -> None:
    weights, options = random_weights(small_config()), BuildOptions([Profile(1, 8)])
    assert engine.build_onnx(weights, small_config(hidden_act=act), options) == engine.build_onnx(
        weights, small_config(), options
    )


# Transformed weights

Transform = Callable[[BertWeights, BertConfig], "tuple[BertWeights, BertConfig]"]


def check_same_logits(config: BertConfig, seed: int, transform: Transform, folder: Path) -> BertWeights:
    """Holds transformed weights on ONNX Runtime against the model as it was, in Hugging Face."""
    model = random_model(config, seed)
    weights, grown = transform(weights_of(model), config)
    session = session_of(weights, grown, folder)
    for length in (1, 7, config.max_position_embeddings):
        batch = ragged(config, 4, length, seed + length)
        assert difference(run(session, batch), theirs(model, batch), batch) <= BOUND
    return weights


def padded(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    return pad_heads(weights, config.num_attention_heads, 64), config


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] < 64], ids=lambda s: f"{s[0]}x{s[1]}")
def test_pad_heads(shape: tuple[int, int, int, int, dict[str, Any]], tmp_path: Path) -> None:
    config = config_of(*shape)
    weights = check_same_logits(config, 3, padded, tmp_path)
    wide, hidden = 64 * config.num_attention_heads, config.hidden_size
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


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("shape", [SHAPES[i] for i in (0, 2, 3, 6, 9)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_widen(shape: tuple[int, int, int, int, dict[str, Any]], times: int, tmp_path: Path) -> None:
    config = config_of(*shape)

    def transform(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
        wide, grown = widen(weights, config, times)
        assert grown == replace(
            config, hidden_size=times * config.hidden_size, intermediate_size=times * config.intermediate_size
        )
        assert grown.head_size == times * config.head_size
        wide.validate(grown)
        return wide, grown

    check_same_logits(config, 4, transform, tmp_path)


def widened_then_padded(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    wide, grown = widen(weights, config, 2)
    return padded(wide, grown)


def padded_then_widened(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    return widen(padded(weights, config)[0], config, 2)


@pytest.mark.parametrize(("transform", "head_size"), [(widened_then_padded, 64), (padded_then_widened, 128)])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=lambda s: f"{s[0]}x{s[1]}")
def test_widen_and_pad_heads(
    shape: tuple[int, int, int, int, dict[str, Any]], transform: Transform, head_size: int, tmp_path: Path
) -> None:
    config = config_of(*shape)
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


# The fused projection


@pytest.mark.parametrize(
    ("by_head", "order"),
    [
        (False, ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]),  # [3, N, D]
        (True, ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]),  # [N, 3, D]
    ],
)
def test_fuse_qkv(by_head: bool, order: list[str]) -> None:
    """Rows are named part, head, row of the head: two heads of two over a hidden size of three."""
    numbers = {f"{part}{n}{d}": 100 * i + 10 * n + d for i, part in enumerate("qkv") for n in range(2) for d in range(2)}

    def linear(part: str) -> Linear:
        rows = [numbers[f"{part}{n}{d}"] for n in range(2) for d in range(2)]
        return Linear(np.array([[row, row + 0.25, row + 0.5] for row in rows], np.float32), np.array(rows, np.float32) + 1000)

    layer = replace(random_weights(small_config()).layers[0], query=linear("q"), key=linear("k"), value=linear("v"))
    graph = PaddedOnnxGraph(num_heads=2, head_size=2, layer_norm_eps=1e-12)
    assert graph.qkv_by_head is False
    graph.qkv_by_head = by_head
    fused = graph.fuse_qkv(layer)
    assert fused.weight.tolist() == [[numbers[row], numbers[row] + 0.25, numbers[row] + 0.5] for row in order]
    assert fused.bias.tolist() == [numbers[row] + 1000 for row in order]
