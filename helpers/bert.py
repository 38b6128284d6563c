"""The network, once: BERT (Devlin et al., 2018, arXiv:1810.04805) with a question-answering head.

`graph` decides what the calls become: TensorRT layers and plugins, or ONNX nodes (see helpers/graphs).
"""

from __future__ import annotations

from typing import TypeVar

from helpers.graphs import Graph
from helpers.weights import BertWeights

Tensor = TypeVar("Tensor")


def bert_qa(graph: Graph[Tensor], weights: BertWeights) -> None:
    """Adds the whole model to `graph`, from token ids to start and end logits."""
    x, residual = graph.embeddings(weights.embeddings, "bert.embeddings")

    for i, layer in enumerate(weights.layers):
        name = f"bert.encoder.layer.{i}"

        qkv = graph.linear(x, graph.fuse_qkv(layer), f"{name}.attention.self.qkv")
        context = graph.attention(qkv, f"{name}.attention.self")
        projected = graph.linear(context, layer.attention_output, f"{name}.attention.output.dense")
        x, residual = graph.skip_layer_norm(projected, residual, layer.attention_norm, f"{name}.attention.output.LayerNorm")

        inner = graph.gelu(graph.linear(x, layer.intermediate, f"{name}.intermediate.dense"), f"{name}.intermediate.gelu")
        projected = graph.linear(inner, layer.output, f"{name}.output.dense")
        x, residual = graph.skip_layer_norm(projected, residual, layer.output_norm, f"{name}.output.LayerNorm")

    graph.logits(graph.linear(x, weights.qa_outputs, "qa_outputs"))
