"""ModernBERT's network (Warner et al., 2024, arXiv:2412.13663): normalised before each part, rotary positions, gated GELU,
attention that reaches a few tokens in most layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helpers.bert import encoder
from helpers.graph import OpenGraph, Sequences, Tensor
from helpers.sites import Site, Sites
from helpers.weights import BertWeights

if TYPE_CHECKING:
    from helpers.config import BertConfig


def modernbert(graph: OpenGraph[Tensor, Sequences], weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    """Adds the whole model to `graph`, from token ids to the task's outputs.

    A layer's norms are those of the sums that it makes: `attention_norm` is read by its feed-forward, `output_norm` by the
    next layer. The sums themselves are the residuals.
    """
    x, residual, sequences = graph.embeddings(weights.embeddings, sites.embeddings)
    kinds = config.extra["layer_types"]
    nearby = graph.windowed(sequences, config.extra["local_attention"] // 2)
    frequencies = {kind: rotary_frequencies(theta, config.head_size) for kind, theta in config.extra["rope_theta"].items()}

    def attend(qkv: Tensor, i: int, at: Site) -> Tensor:
        turned = graph.rotated(qkv, frequencies[kinds[i]], sequences, at)
        return graph.attention(turned, nearby if kinds[i] == LOCAL else sequences, at)

    x = encoder(graph, x, residual, weights, sites, config, attend, graph.gated)

    if config.pooled:
        pool = graph.mean if config.extra["classifier_pooling"] == "mean" else graph.first
        x = pool(x, sequences, sites.pooler)
    if weights.head.dense and weights.head.norm and weights.head.out:
        x = graph.linear(x, weights.head.dense, sites.pooler)
        x = graph.activation(x, config.family.pooler_activation(config), sites.pooler_activation)
        x = graph.layer_norm(x, weights.head.norm, sites.pooler_norm)
        x = graph.linear(x, weights.head.out, sites.head)
    graph.outputs(x, config.width, config.pooled)


LOCAL, GLOBAL = "sliding_attention", "full_attention"


def rotary_frequencies(theta: float, head_size: int) -> np.ndarray:
    """Radians a position, [D / 2] float32 (Su et al., 2021, arXiv:2104.09864)."""
    return (1.0 / (theta ** (np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)))).astype(np.float32)
