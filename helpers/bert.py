"""The network, once: BERT (Devlin et al., 2018, arXiv:1810.04805) with a task's head.

`graph` decides what the calls become (helpers/graph.py); `sites` is what each of them may know of its place. Networks of other
families, beside this one, share its layers and its head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from helpers.graph import Graph, Sequences, Tensor
from helpers.sites import Site, Sites
from helpers.weights import BertWeights, Linear

if TYPE_CHECKING:
    from helpers.config import BertConfig

PROJECTION = "bert.embeddings_project"


def bert(graph: Graph[Tensor, Sequences], weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    """Adds the whole model to `graph`, from token ids to the task's outputs."""
    x, residual, sequences = graph.embeddings(weights.embeddings, sites.embeddings)
    x = encoder(graph, x, residual, weights, sites, config, lambda qkv, _, at: graph.attention(qkv, sequences, at))
    head(graph, x, sequences, weights, sites, config)


def factorised(graph: Graph[Tensor, Sequences], weights: BertWeights, sites: Sites, config: BertConfig) -> None:
    """A BERT whose embeddings are narrower than its layers (Lan et al., 2019, arXiv:1909.11942)."""
    embedded, _, sequences = graph.embeddings(weights.embeddings, sites.embeddings)
    projection = Linear(weights.further[f"{PROJECTION}.weight"], weights.further[f"{PROJECTION}.bias"])
    x = graph.linear(embedded, projection, sites.projection)
    x = encoder(graph, x, graph.residual(x), weights, sites, config, lambda qkv, _, at: graph.attention(qkv, sequences, at))
    head(graph, x, sequences, weights, sites, config)


def encoder(
    graph: Graph[Tensor, Sequences],
    x: Tensor,
    residual: Tensor,
    weights: BertWeights,
    sites: Sites,
    config: BertConfig,
    attend: Callable[[Tensor, int, Site], Tensor],
    activate: Callable[[Tensor, str, Site], Tensor] | None = None,
) -> Tensor:
    """The layers.

    Args:
        attend: (fused projection, index of the layer, site) → the attention's context.
        activate: the feed-forward's activation; None for graph.activation.
    """
    activate = activate or graph.activation
    for i, (layer, at) in enumerate(zip(weights.layers, sites.layers)):
        context = attend(graph.linear(x, graph.fuse_qkv(layer), at.qkv), i, at.attention)
        projected = graph.linear(context, layer.attention_output, at.attention_output)
        x, residual = graph.skip_layer_norm(projected, residual, layer.attention_norm, at.attention_norm)

        inner = activate(graph.linear(x, layer.intermediate, at.intermediate), config.activation, at.activation)
        projected = graph.linear(inner, layer.output, at.output)
        x, residual = graph.skip_layer_norm(projected, residual, layer.output_norm, at.output_norm)
    return x


def head(
    graph: Graph[Tensor, Sequences], x: Tensor, sequences: Sequences, weights: BertWeights, sites: Sites, config: BertConfig
) -> None:
    """The task's head: of every token, or of the first one of each sequence."""
    if config.pooled:
        x = graph.first(x, sequences, sites.pooler)
    if weights.head.dense:
        x = graph.linear(x, weights.head.dense, sites.pooler)
        x = graph.activation(x, config.family.pooler_activation(config), sites.pooler_activation)
    if weights.head.out:
        x = graph.linear(x, weights.head.out, sites.head)
    graph.outputs(x, config.width, config.pooled)
