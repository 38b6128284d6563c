"""DeBERTa's network (He et al., 2020, arXiv:2006.03654): a BERT whose attention scores content and distance apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from helpers.bert import encoder, head
from helpers.graph import OpenGraph, Sequences, Tensor
from helpers.sites import Site, Sites
from helpers.weights import BertWeights, Layer, Linear

if TYPE_CHECKING:
    from helpers.config import BertConfig

# What each layer has of the distances, [R, N·D]: the i-th layer's keys and queries.
KEYS, QUERIES = "deberta.keys.{}", "deberta.queries.{}"


def deberta(graph: OpenGraph[Tensor, Sequences], weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    """Adds the whole model to `graph`, from token ids to the task's outputs."""
    x, residual, sequences = graph.embeddings(weights.embeddings, sites.embeddings)
    # Scores are divided by √(D · terms), of which attention itself knows √D.
    shrink = np.float32((1 + len(config.extra["pos_att_type"])) ** -0.5)
    scaled = replace(weights, layers=tuple(scale_query(layer, shrink) for layer in weights.layers))
    rows = distance_rows(config)

    def attend(qkv: Tensor, i: int, at: Site) -> Tensor:
        keys, queries = (by_head(weights.further.get(name.format(i)), config) for name in (KEYS, QUERIES))
        queries = None if queries is None else queries * shrink
        return graph.disentangled_attention(qkv, sequences, keys, queries, rows, at)

    x = encoder(graph, x, residual, scaled, sites, config, attend)
    head(graph, x, sequences, weights, sites, config)


def scale_query(layer: Layer, scale: np.float32) -> Layer:
    return replace(layer, query=Linear(layer.query.weight * scale, layer.query.bias * scale))


def by_head(rows: np.ndarray | None, config: BertConfig) -> np.ndarray | None:
    """[R, N·D] as [N, R, D]."""
    if rows is None:
        return None
    return rows.reshape(len(rows), config.num_attention_heads, -1).transpose(1, 0, 2)


def span(config: BertConfig) -> int:
    """Distances to either side that have a row of their own, or a bucket."""
    buckets, most = config.extra["position_buckets"], config.extra["max_relative_positions"]
    return buckets if buckets > 0 else most if most > 0 else config.max_position_embeddings


def distance_rows(config: BertConfig) -> np.ndarray:
    """Which row each distance from query to key has, [2P − 1] int64, from 1 − P on: rows count from key to query."""
    positions, most = config.max_position_embeddings, config.extra["max_relative_positions"]
    relative = np.arange(positions - 1, -positions, -1)
    if config.extra["position_buckets"] > 0:
        relative = log_buckets(relative, config.extra["position_buckets"], most if most > 0 else positions)
    return np.clip(relative + span(config), 0, 2 * span(config) - 1)


def log_buckets(relative: np.ndarray, buckets: int, farthest: int) -> np.ndarray:
    """Near distances as they are, farther ones by their logarithm, up to `buckets` to either side."""
    middle = buckets // 2
    apart = np.maximum(np.abs(relative), middle).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):  # where no distance is far
        spread = np.log(apart / np.float32(middle)) / np.log(np.float32((farthest - 1) / middle)) * np.float32(middle - 1)
        far = np.ceil(spread).astype(np.int64) + middle
    return np.where(np.abs(relative) <= middle, relative, np.sign(relative) * far)
