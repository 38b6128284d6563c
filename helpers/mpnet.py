"""MPNet's network (Song et al., 2020, arXiv:2004.09297): a BERT whose attention adds a bias by distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helpers.bert import encoder, head
from helpers.graph import OpenGraph, Sequences, Tensor
from helpers.sites import Sites
from helpers.weights import BertWeights

if TYPE_CHECKING:
    from helpers.config import BertConfig

BUCKETS, FARTHEST = 32, 128  # of T5's relative positions (Raffel et al., 2019, arXiv:1910.10683), which MPNet fixes
RELATIVE_BIAS = "mpnet.encoder.relative_attention_bias.weight"


def mpnet(graph: OpenGraph[Tensor, Sequences], weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    """Adds the whole model to `graph`, from token ids to the task's outputs."""
    x, residual, sequences = graph.embeddings(weights.embeddings, sites.embeddings)
    biased = graph.biased(sequences, weights.further[RELATIVE_BIAS][buckets(config.max_position_embeddings)].T)
    x = encoder(graph, x, residual, weights, sites, config, lambda qkv, _, at: graph.attention(qkv, biased, at))
    head(graph, x, sequences, weights, sites, config)


def buckets(positions: int) -> np.ndarray:
    """Which bucket each distance has, [2P − 1]: near ones of their own, farther ones by their logarithm; half to either side."""
    distances = np.arange(1 - positions, positions)
    half = BUCKETS // 2
    near, apart = half // 2, np.abs(distances)
    far = np.log(np.maximum(apart, 1).astype(np.float32) / near) / np.log(FARTHEST / near) * (half - near)
    side = np.where(apart < near, apart, np.minimum(near + far.astype(np.int64), half - 1))
    return np.where(distances > 0, half, 0) + side
