"""Megatron's network on ONNX Runtime, whose residuals are sums, plain and in int8, against one written in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import backends
from helpers.config import BertConfig
from helpers.layouts import Batch, Profile
from helpers.sites import bert_sites
from helpers.weights import BertWeights, LayerNorm, Linear
from tests.batches import alone, difference, onnx_blob, padded, ragged, rms, rounded, run, session_of, strays
from tests.models import random_model, small_config, weights_of
from tests.quantized import FINAL, SUMS, TENSORS, largest, logits_of

SIZES: dict[str, dict[str, Any]] = {
    "2x4": {},
    "4x2": {"num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 37},
    "1x1": {
        "num_attention_heads": 1,
        "hidden_size": 48,
        "num_hidden_layers": 1,
        "layer_norm_eps": 1e-3,
        "type_vocab_size": 3,
        "hidden_act": "gelu",
    },
}


def reference(
    weights: BertWeights, config: BertConfig, batch: Batch, amax: Mapping[str, float] | None = None, sums: bool = True
) -> np.ndarray:
    """Logits [T, 2] of Megatron's network in float64: r0 = embeddings, x0 = LN(r0), r1 = r0 + attention(x0), …

    Args:
        amax: ranges of the tensors that are rounded.
        sums: whether residuals are sums; else they are normalised, as in BERT.
    """
    amax = amax or {}
    ids, segments, mask = padded(batch)

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(np.asarray(array, np.float64))

    def round_to(x: Any, name: str) -> Any:
        return rounded(x, amax.get(name))

    def layer_norm(x: Any, norm: LayerNorm) -> Any:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], tensor(norm.gamma), tensor(norm.beta), config.layer_norm_eps)

    def gelu(x: Any) -> Any:
        return torch.nn.functional.gelu(x, approximate="none" if config.hidden_act == "gelu" else "tanh")

    def linear(x: Any, part: Linear, source: str) -> Any:
        weight = tensor(part.weight)
        if source in amax:
            step = weight.abs().amax(1, keepdim=True) / 127
            weight = (weight / step).round() * step
        return round_to(x, source) @ weight.T + tensor(part.bias)

    def attention(query: Any, key: Any, value: Any, name: str) -> Any:
        query, key, value = (
            round_to(x, f"{name}.qkv").unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
            for x in (query, key, value)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.from_numpy(mask == 0)[:, None, None], -1e30)
        context = round_to(scores.softmax(-1), f"{name}.probabilities") @ value
        return context.transpose(1, 2).flatten(2)

    embeddings = weights.embeddings
    word, position, token_type = embeddings.tables()
    r = tensor(word[ids] + position[: ids.shape[1]] + token_type[segments])
    x = layer_norm(r, embeddings.norm)
    source = "bert.embeddings"
    for i, layer in enumerate(weights.layers):
        name = f"bert.encoder.layer.{i}"
        query, key, value = (linear(x, part, source) for part in (layer.query, layer.key, layer.value))
        context = attention(query, key, value, f"{name}.attention.self")
        added = linear(context, layer.attention_output, f"{name}.attention.self")
        residual = round_to(r, f"{source}.sum") if sums else x
        r = residual + round_to(added, f"{name}.attention.output.dense")
        x, source = layer_norm(r, layer.attention_norm), f"{name}.attention.output.LayerNorm"
        inner = gelu(linear(x, layer.intermediate, source))
        added = linear(inner, layer.output, f"{name}.intermediate.gelu")
        residual = round_to(r, f"{source}.sum") if sums else x
        r = residual + round_to(added, f"{name}.output.dense")
        x, source = layer_norm(r, layer.output_norm), f"{name}.output.LayerNorm"
    out = weights.head.out
    assert out
    logits = x @ tensor(out.weight).T + tensor(out.bias)
    return np.asarray(logits.numpy())[mask == 1]


def blob_of(weights: BertWeights, config: BertConfig, packed: bool, amax: Mapping[str, float] | None = None) -> bytes:
    return onnx_blob(weights, config, [Profile(64, 64)], packed, amax, megatron=True)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("changes", SIZES.values(), ids=SIZES)
def test_logits(changes: dict[str, Any], packed: bool) -> None:
    config = small_config(**changes)
    weights = weights_of(random_model(config, 3))
    blob = blob_of(weights, config, packed)
    for seed, length in enumerate((1, 13, 64)):
        batch = ragged(config, 7, length, seed)
        found, expected = logits_of(blob, batch, packed, optimized=True), reference(weights, config, batch)
        assert difference(found, expected, batch) < 1e-5 * max(1, np.abs(expected).max())
        other = reference(weights, config, batch, sums=False)
        assert difference(found, other, batch) > 0.1


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_the_reference_without_sums_is_bert(tmp_path: Path, packed: bool) -> None:
    """And so is an engine that is not Megatron's."""
    config = small_config()
    weights, batch = weights_of(random_model(config, 3)), ragged(config, 5, 20, 1)
    found = run(session_of(weights, config, tmp_path, packed), batch)
    assert difference(found, reference(weights, config, batch, sums=False), batch) < 1e-4


def plausible_ranges(weights: BertWeights, config: BertConfig, batch: Batch, seed: int) -> dict[str, float]:
    """Each 0.7 to 1.1 of the largest value: some clip, and no two are alike."""
    generator = np.random.default_rng(seed)
    sites = bert_sites(config.num_hidden_layers, megatron=True)
    seen = [site for site in sites if site.quantizers]
    each = backends.observer().observe(weights, config, sites, seen, [alone(batch, i) for i in range(len(batch.lengths))])
    amax = np.max([[largest(value) for value in values] for values in each], 0)
    return {site.name: float(most) * generator.uniform(0.7, 1.1) for site, most in zip(seen, amax)}


class Case:
    """A model whose every tensor has a range, and what it computes in float64, plain and rounded."""

    def __init__(self, seed: int, **changes: Any) -> None:
        self.config = small_config(**changes)
        self.weights = weights_of(random_model(self.config, seed))
        self.batch = ragged(self.config, 24, 12, seed)
        self.ranges = plausible_ranges(self.weights, self.config, self.batch, seed)
        self.plain = reference(self.weights, self.config, self.batch)
        self.logits = self.without()

    def without(self, *names: str) -> np.ndarray:
        amax = {name: value for name, value in self.ranges.items() if name not in names}
        return reference(self.weights, self.config, self.batch, amax)


@pytest.mark.parametrize("changes", SIZES.values(), ids=SIZES)
def test_int8_logits(changes: dict[str, Any]) -> None:
    """As test_int8.py has it: as written but for a stray value, and as run within the rounding's own error."""
    case = Case(5, **changes)
    blob = blob_of(case.weights, case.config, True, case.ranges)
    error = rms(case.logits - case.plain)
    as_written, as_run = (logits_of(blob, case.batch, True, optimized) - case.logits for optimized in (False, True))
    assert strays(as_written, case.batch) <= 2
    assert rms(as_written) < 0.1 * error
    assert rms(as_run) < error
    assert error < 0.2 * case.plain.std()


def test_every_rounding_counts() -> None:
    case = Case(5)
    assert set(case.ranges) == {*TENSORS, *SUMS}
    for name in case.ranges:
        changed = strays(case.without(name) - case.logits, case.batch)
        assert (changed == 0) if name == FINAL else (changed >= 12), name
