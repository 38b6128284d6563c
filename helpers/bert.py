"""The network, once: BERT (Devlin et al., 2018, arXiv:1810.04805) with a question-answering head.

`graph` decides what the calls become (helpers/graph.py); `sites` is what each of them may know of its place.
"""

from __future__ import annotations

from typing import TypeVar

from helpers.graph import Graph
from helpers.sites import Sites
from helpers.weights import BertWeights

Tensor = TypeVar("Tensor")
Sequences = TypeVar("Sequences")


def bert_qa(graph: Graph[Tensor, Sequences], weights: BertWeights, sites: Sites) -> None:
    """Adds the whole model to `graph`, from token ids to start and end logits."""
    x, residual, sequences = graph.embeddings(weights.embeddings, sites.embeddings)

    for layer, at in zip(weights.layers, sites.layers):
        qkv = graph.linear(x, graph.fuse_qkv(layer), at.qkv)
        context = graph.attention(qkv, sequences, at.attention)
        projected = graph.linear(context, layer.attention_output, at.attention_output)
        x, residual = graph.skip_layer_norm(projected, residual, layer.attention_norm, at.attention_norm)

        inner = graph.activation(graph.linear(x, layer.intermediate, at.intermediate), at.activation)
        projected = graph.linear(inner, layer.output, at.output)
        x, residual = graph.skip_layer_norm(projected, residual, layer.output_norm, at.output_norm)

    graph.logits(graph.linear(x, weights.qa_outputs, sites.head))
