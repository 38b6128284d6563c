"""What the calls of the network may know of their place in it: its name, its part, and the quantizers that speak for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto


class Part(Enum):
    """What a call of the network is; the tensor that it gives has the same name."""

    EMBEDDINGS = auto()
    QKV = auto()
    PROBABILITIES = auto()
    ATTENTION = auto()
    ATTENTION_OUTPUT = auto()
    ATTENTION_NORM = auto()
    INTERMEDIATE = auto()
    ACTIVATION = auto()
    OUTPUT = auto()
    OUTPUT_NORM = auto()
    SUM = auto()
    HEAD = auto()


PROJECTIONS = frozenset({Part.QKV, Part.ATTENTION_OUTPUT, Part.INTERMEDIATE, Part.OUTPUT})  # of the encoder
NORMS = frozenset({Part.ATTENTION_NORM, Part.OUTPUT_NORM})
# Tensors that are added to a residual, and those that projections read.
ADDED = frozenset({Part.ATTENTION_OUTPUT, Part.OUTPUT})
PROJECTED = frozenset({Part.EMBEDDINGS, Part.ATTENTION, Part.ATTENTION_NORM, Part.ACTIVATION, Part.OUTPUT_NORM})


@dataclass(frozen=True)
class Site:
    """One call of the network, and the tensor that it gives.

    Args:
        name: the Hugging Face name of that part of the model.
        quantizers: those of a quantization-aware checkpoint that saw the tensor; the largest of their ranges counts.
        probabilities: of attention, the tensor inside it.
        residual: the sum before its normalisation, where that is what the next addition takes; None where the
            normalised sum is, as in BERT, or where no addition follows.
    """

    name: str
    part: Part
    quantizers: tuple[str, ...] = ()
    probabilities: Site | None = None
    residual: Site | None = None


@dataclass(frozen=True)
class LayerSites:
    """The calls of one encoder layer."""

    qkv: Site
    attention: Site
    attention_output: Site
    attention_norm: Site
    intermediate: Site
    activation: Site
    output: Site
    output_norm: Site


@dataclass(frozen=True)
class Sites:
    """The calls of a whole network. `projection` widens the embeddings, where they are narrower than the encoder."""

    embeddings: Site
    projection: Site
    layers: tuple[LayerSites, ...]
    pooler: Site
    pooler_activation: Site
    pooler_norm: Site
    head: Site

    def __iter__(self) -> Iterator[Site]:
        """Every site of the encoder, those inside of another and sums too."""
        for site in (self.embeddings, self.projection, *(site for layer in self.layers for site in vars(layer).values())):
            yield site
            yield from filter(None, (site.probabilities, site.residual))


def bert_sites(num_layers: int, megatron: bool = False) -> Sites:
    """The sites of a BERT with a task's head; quantizers go by NVIDIA's names (docs/checkpoints.md).

    Args:
        megatron: whether the sums themselves travel on as residuals, as in Megatron-LM (Shoeybi et al., 2019,
            arXiv:1909.08053, figure 7b).
    """
    layers = [f"bert.encoder.layer.{i}" for i in range(num_layers)]

    def normed(name: str, part: Part, read_by: str, added_in: str | None) -> Site:
        """What an embedding or a layer norm gives: the input of a projection, its sum the residual of an addition."""
        residual = None
        if megatron and added_in:
            residual = Site(f"{name}.sum", Part.SUM, (f"{added_in}.add_residual_input_quantizer",))
        return Site(name, part, (read_by,), residual=residual)

    def layer_input(name: str, part: Part, layer: int) -> Site:
        """What the layer of that number reads, or after the last one the head."""
        if layer == num_layers:
            return normed(name, part, "bert.encoder.final_input_quantizer", None)
        next_layer = layers[layer]
        return normed(name, part, f"{next_layer}.attention.self.query._input_quantizer", f"{next_layer}.attention.output")

    def encoder_layer(i: int, layer: str) -> LayerSites:
        this, attended = f"{layer}.attention.self", f"{layer}.attention.output"
        probabilities = Site(f"{this}.probabilities", Part.PROBABILITIES, (f"{this}.av_a_input_quantizer",))
        added = "add_local_input_quantizer"
        return LayerSites(
            qkv=Site(f"{this}.qkv", Part.QKV, tuple(f"{this}.{name}_input_quantizer" for name in ("qv_a", "qv_b", "av_b"))),
            attention=Site(this, Part.ATTENTION, (f"{layer}.attention.output.dense._input_quantizer",), probabilities),
            attention_output=Site(f"{attended}.dense", Part.ATTENTION_OUTPUT, (f"{attended}.{added}",)),
            attention_norm=normed(
                f"{attended}.LayerNorm",
                Part.ATTENTION_NORM,
                f"{layer}.intermediate.dense._input_quantizer",
                f"{layer}.output",
            ),
            intermediate=Site(f"{layer}.intermediate.dense", Part.INTERMEDIATE),
            activation=Site(f"{layer}.intermediate.gelu", Part.ACTIVATION, (f"{layer}.output.dense._input_quantizer",)),
            output=Site(f"{layer}.output.dense", Part.OUTPUT, (f"{layer}.output.{added}",)),
            output_norm=layer_input(f"{layer}.output.LayerNorm", Part.OUTPUT_NORM, i + 1),
        )

    return Sites(
        embeddings=layer_input("bert.embeddings", Part.EMBEDDINGS, 0),
        projection=Site("bert.embeddings_project", Part.EMBEDDINGS),
        layers=tuple(encoder_layer(i, layer) for i, layer in enumerate(layers)),
        pooler=Site("pooler.dense", Part.HEAD),
        pooler_activation=Site("pooler.activation", Part.HEAD),
        pooler_norm=Site("pooler.norm", Part.HEAD),
        head=Site("qa_outputs", Part.HEAD),
    )


def factorised_sites(num_layers: int, megatron: bool = False) -> Sites:
    """Those of a BERT whose layers read not the embeddings, but their projection."""
    sites = bert_sites(num_layers, megatron)
    bare, read = replace(sites.embeddings, quantizers=(), residual=None), sites.embeddings
    return replace(sites, embeddings=bare, projection=replace(read, name=sites.projection.name))


def pre_norm_sites(num_layers: int) -> Sites:
    """Those of an encoder whose residuals are sums before their normalisation, from the second on."""
    sites = bert_sites(num_layers, megatron=True)
    return replace(sites, embeddings=replace(sites.embeddings, residual=None))


def query_quantizers(sites: Sites) -> set[str]:
    """The quantizers that saw a query: their ranges follow where the query is scaled."""
    return {layer.qkv.quantizers[0] for layer in sites.layers}
