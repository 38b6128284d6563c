"""The calls that networks are made of: each backend says what they become."""

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

    def residual(self, x: Tensor) -> Tensor:
        """x as an addition takes it: not in 8 bits, whatever else reads it."""
        return x

    @abstractmethod
    def activation(self, x: Tensor, form: str, site: Site) -> Tensor:
        """One of config.ACTIVATIONS's forms, or "hyperbolic", tanh itself."""

    @abstractmethod
    def first(self, x: Tensor, sequences: Sequences, site: Site) -> Tensor:
        """The first token of each sequence."""

    @abstractmethod
    def outputs(self, x: Tensor, width: int, pooled: bool) -> None:
        """Marks the network's output, of so many channels for each token or, pooled, each sequence."""

    def fuse_qkv(self, layer: Layer) -> Linear:
        """Query, key and value as one projection, its rows in the order that this graph's attention reads."""
        parts = (layer.query, layer.key, layer.value)
        axis = 1 if self.qkv_by_head else 0

        def fuse(arrays: list[np.ndarray]) -> np.ndarray:
            by_head = [array.reshape(self.num_heads, -1) for array in arrays]
            return np.stack(by_head, axis).reshape(-1, *arrays[0].shape[1:])

        return Linear(fuse([part.weight for part in parts]), fuse([part.bias for part in parts]))


class OpenGraph(Graph[Tensor, Sequences]):
    """A graph of general operators, which has what BERT's attention has not. Distances count tokens from query to key."""

    @abstractmethod
    def mean(self, x: Tensor, sequences: Sequences, site: Site) -> Tensor:
        """The mean of each sequence's tokens."""

    @abstractmethod
    def layer_norm(self, x: Tensor, norm: LayerNorm, site: Site) -> Tensor:
        """LayerNorm(x)."""

    @abstractmethod
    def gated(self, x: Tensor, form: str, site: Site) -> Tensor:
        """The activated first half of x's channels, times the second half."""

    @abstractmethod
    def biased(self, sequences: Sequences, bias: np.ndarray) -> Sequences:
        """Sequences whose attention adds `bias` [N, 2P − 1] to its scores, by head and distance from 1 − P on."""

    @abstractmethod
    def windowed(self, sequences: Sequences, reach: int) -> Sequences:
        """Sequences whose attention ends at that distance, to either side."""

    @abstractmethod
    def rotated(self, qkv: Tensor, frequencies: np.ndarray, sequences: Sequences, site: Site) -> Tensor:
        """Queries and keys turned by their position times `frequencies` [D / 2] (Su et al., 2021, arXiv:2104.09864)."""

    @abstractmethod
    def disentangled_attention(
        self, qkv: Tensor, sequences: Sequences, keys: np.ndarray | None, queries: np.ndarray | None, rows: np.ndarray, site: Site
    ) -> Tensor:
        """Attention whose scores add those of each query with its distance's key, and of each key with its distance's query.

        Args:
            keys, queries: [N, R, D] of distances, where there are any.
            rows: [2P − 1] which of the R rows a distance has, from 1 − P on.
        """
