"""Other weights that compute the same function, in a shape that a fast kernel covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helpers.config import BertConfig
from helpers.sites import bert_sites, query_quantizers
from helpers.weights import BertWeights, Embeddings, Layer, LayerNorm, Linear


def with_two_segments(weights: BertWeights) -> BertWeights:
    """A model's only segment stands for a second one too: whichever of the two a text is given, it is right, as it is one."""
    only = weights.embeddings.token_type
    if only is None or len(only) > 1:
        return weights
    return replace(weights, embeddings=replace(weights.embeddings, token_type=np.repeat(only, 2, 0)))


def pad_heads(weights: BertWeights, num_heads: int, head_size: int) -> BertWeights:
    """Grows each attention head to `head_size` with zeros: the attention's width becomes num_heads × head_size.

    Scores are divided by the square root of the head size inside the attention, so the query is multiplied by
    sqrt(head_size / D) to leave them as they were (docs/design.md). Exact but for rounding. Heads that are as large
    already, or larger, are left alone.
    """
    old = weights.head_size(num_heads)
    if old >= head_size:
        return weights
    scale = (head_size / old) ** 0.5

    def grow(array: np.ndarray, axis: int) -> np.ndarray:
        split = array.reshape((*array.shape[:axis], num_heads, old, *array.shape[axis + 1 :]))
        widths = [(0, 0)] * split.ndim
        widths[axis + 1] = (0, head_size - old)
        return np.pad(split, widths).reshape((*array.shape[:axis], num_heads * head_size, *array.shape[axis + 1 :]))

    def rows(linear: Linear, scale: float = 1.0) -> Linear:
        return Linear(grow(linear.weight, 0) * np.float32(scale), grow(linear.bias, 0) * np.float32(scale))

    def pad(layer: Layer) -> Layer:
        return replace(
            layer,
            query=rows(layer.query, scale),
            key=rows(layer.key),
            value=rows(layer.value),
            attention_output=replace(layer.attention_output, weight=grow(layer.attention_output.weight, 1)),
        )

    return replace(weights, layers=tuple(map(pad, weights.layers)), ranges=scaled_queries(weights, scale))


def scaled_queries(weights: BertWeights, scale: float) -> dict[str, float]:
    """The ranges, where the queries of all layers are multiplied by `scale`."""
    queries = query_quantizers(bert_sites(len(weights.layers)))
    return {name: amax * scale if name in queries else amax for name, amax in weights.ranges.items()}


def widen(weights: BertWeights, config: BertConfig, times: int) -> tuple[BertWeights, BertConfig]:
    """Repeats every hidden channel `times` times: hidden size, head size and feed-forward grow, the logits stay.

    Layer norm sees each value `times` times and so finds the same mean and variance; a projection adds up `times`
    copies of its input and so has its columns divided by `times` (docs/checkpoints.md).
    """
    heads, k = config.num_attention_heads, times

    def repeat(array: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate([array] * k, axis)

    def per_head(array: np.ndarray, axis: int) -> np.ndarray:
        split = array.reshape((*array.shape[:axis], heads, -1, *array.shape[axis + 1 :]))
        return repeat(split, axis + 1).reshape((*array.shape[:axis], -1, *array.shape[axis + 1 :]))

    def norm(part: LayerNorm) -> LayerNorm:
        return LayerNorm(repeat(part.gamma, 0), repeat(part.beta, 0))

    def linear(part: Linear) -> Linear:
        return Linear(repeat(repeat(part.weight, 0), 1) / np.float32(k), repeat(part.bias, 0))

    def projection(part: Linear, scale: float = 1.0) -> Linear:
        scale32 = np.float32(scale)
        return Linear(per_head(repeat(part.weight, 1), 0) * (scale32 / np.float32(k)), per_head(part.bias, 0) * scale32)

    def layer(old: Layer) -> Layer:
        attention_output = Linear(
            repeat(per_head(old.attention_output.weight, 1), 0) / np.float32(k), repeat(old.attention_output.bias, 0)
        )
        return Layer(
            query=projection(old.query, k**-0.5),
            key=projection(old.key),
            value=projection(old.value),
            attention_output=attention_output,
            attention_norm=norm(old.attention_norm),
            intermediate=linear(old.intermediate),
            output=linear(old.output),
            output_norm=norm(old.output_norm),
        )

    old, out = weights.embeddings, weights.head.out
    assert out

    def table(part: np.ndarray | None) -> np.ndarray | None:
        return None if part is None else repeat(part, 1)

    wide = BertWeights(
        Embeddings(repeat(old.word, 1), table(old.position), table(old.token_type), norm(old.norm)),
        tuple(map(layer, weights.layers)),
        replace(weights.head, out=Linear(repeat(out.weight, 1) / np.float32(k), out.bias)),
        scaled_queries(weights, k**-0.5),
    )
    grown = replace(config, hidden_size=config.hidden_size * k, intermediate_size=config.intermediate_size * k)
    return wide, grown
