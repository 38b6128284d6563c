"""Graphs: what the network's calls become in each backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from helpers.weights import Embeddings, Layer, LayerNorm, Linear

Tensor = TypeVar("Tensor")


@dataclass(frozen=True)
class Int8:
    """What is computed in int8: the encoder's projections, and on TensorRT what else is asked for.

    `ranges` has the absolute maximum of each tensor, by the network's names (helpers/ranges.py).
    """

    ranges: Mapping[str, float]
    attention: bool = False
    skip_layer_norm: bool = False
    output_gemm: bool = False  # the second feed-forward projection stays out of it


class Graph(ABC, Generic[Tensor]):
    """A network under construction. `name` in each call is the Hugging Face name of that part of the model.

    Embeddings and skip_layer_norm give two tensors: the normalised sum, and the residual that the next addition takes.
    That is the same tensor in BERT, and the sum before its normalisation in Megatron-LM (Shoeybi et al., 2019,
    arXiv:1909.08053, figure 7b).
    """

    num_heads: int
    megatron: bool
    qkv_by_head: bool  # rows of the fused projection: [N, 3, D] where True, else [3, N, D]

    @abstractmethod
    def embeddings(self, weights: Embeddings, name: str) -> tuple[Tensor, Tensor]:
        """Adds the inputs; LayerNorm(word + position + segment embeddings). Keeps the mask for `attention`."""

    @abstractmethod
    def linear(self, x: Tensor, weights: Linear, name: str) -> Tensor:
        """x · weightᵀ + bias over the last of x's channels."""

    @abstractmethod
    def attention(self, qkv: Tensor, name: str) -> Tensor:
        """Multi-head self-attention over the fused projection of width 3·N·D; gives N·D channels."""

    @abstractmethod
    def skip_layer_norm(self, x: Tensor, residual: Tensor, norm: LayerNorm, name: str) -> tuple[Tensor, Tensor]:
        """LayerNorm(x + residual), and the next residual."""

    @abstractmethod
    def gelu(self, x: Tensor, name: str) -> Tensor:
        """GELU in its tanh form (Hendrycks & Gimpel, 2016, arXiv:1606.08415)."""

    @abstractmethod
    def logits(self, x: Tensor) -> None:
        """Marks the network's output."""

    def fuse_qkv(self, layer: Layer) -> Linear:
        """Query, key and value as one projection, its rows in the order that this graph's attention reads."""
        parts = (layer.query, layer.key, layer.value)
        axis = 1 if self.qkv_by_head else 0

        def fuse(arrays: list[np.ndarray]) -> np.ndarray:
            by_head = [array.reshape(self.num_heads, -1) for array in arrays]
            return np.stack(by_head, axis).reshape(-1, *arrays[0].shape[1:])

        return Linear(fuse([part.weight for part in parts]), fuse([part.bias for part in parts]))
