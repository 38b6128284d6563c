"""The calls that the network is made of: each backend says what they become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from helpers.sites import Site
from helpers.weights import Embeddings, Layer, LayerNorm, Linear

Tensor = TypeVar("Tensor")
Sequences = TypeVar("Sequences")  # what attention needs to know of where a batch's sequences lie


class Graph(ABC, Generic[Tensor, Sequences]):
    """A network under construction.

    Embeddings and skip_layer_norm give the normalised sum, and the residual that the next addition takes: in BERT the
    same tensor, with `site.residual` the sum before its normalisation.
    """

    num_heads: int
    qkv_by_head: bool  # rows of the fused projection: [N, 3, D] where True, else [3, N, D]

    @abstractmethod
    def embeddings(self, weights: Embeddings, site: Site) -> tuple[Tensor, Tensor, Sequences]:
        """Adds the inputs; LayerNorm(word + position + segment embeddings), the residual, and the sequences."""

    @abstractmethod
    def linear(self, x: Tensor, weights: Linear, site: Site) -> Tensor:
        """x · weightᵀ + bias over the last of x's channels."""

    @abstractmethod
    def attention(self, qkv: Tensor, sequences: Sequences, site: Site) -> Tensor:
        """Multi-head self-attention over the fused projection of width 3·N·D; gives N·D channels."""

    @abstractmethod
    def skip_layer_norm(self, x: Tensor, residual: Tensor, norm: LayerNorm, site: Site) -> tuple[Tensor, Tensor]:
        """LayerNorm(x + residual), and the next residual."""

    @abstractmethod
    def activation(self, x: Tensor, site: Site) -> Tensor:
        """GELU (Hendrycks & Gimpel, 2016, arXiv:1606.08415)."""

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
