"""What every graph shares: the fused projection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.backends.base import Network
from helpers.backends.onnxruntime.graph import PaddedOnnxGraph
from helpers.precision import choose
from helpers.sites import bert_sites
from helpers.weights import Linear, random_weights
from tests.models import small_config


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

    config = small_config(num_attention_heads=2)
    weights = random_weights(config)
    layer = replace(weights.layers[0], query=linear("q"), key=linear("k"), value=linear("v"))
    graph = PaddedOnnxGraph(Network(config, weights, bert_sites(2), choose(fp16=False, int8=False), {}))
    assert graph.qkv_by_head is False
    graph.qkv_by_head = by_head
    fused = graph.fuse_qkv(layer)
    assert fused.weight.tolist() == [[numbers[row], numbers[row] + 0.25, numbers[row] + 0.5] for row in order]
    assert fused.bias.tolist() == [numbers[row] + 1000 for row in order]
