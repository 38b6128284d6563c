"""The sites of the network: their order and names, and the quantizers that speak for them."""

from __future__ import annotations

from collections import Counter

import pytest

from helpers.sites import (
    ADDED,
    NORMS,
    PROJECTED,
    PROJECTIONS,
    Part,
    Site,
    bert_sites,
    factorised_sites,
    pre_norm_sites,
    query_quantizers,
)
from tests.models import random_model, small_config

L0, L1 = "bert.encoder.layer.0", "bert.encoder.layer.1"


def in_layer(name: str) -> list[tuple[str, Part]]:
    return [
        (f"{name}.attention.self.qkv", Part.QKV),
        (f"{name}.attention.self", Part.ATTENTION),
        (f"{name}.attention.self.probabilities", Part.PROBABILITIES),
        (f"{name}.attention.output.dense", Part.ATTENTION_OUTPUT),
        (f"{name}.attention.output.LayerNorm", Part.ATTENTION_NORM),
        (f"{name}.intermediate.dense", Part.INTERMEDIATE),
        (f"{name}.intermediate.gelu", Part.ACTIVATION),
        (f"{name}.output.dense", Part.OUTPUT),
        (f"{name}.output.LayerNorm", Part.OUTPUT_NORM),
    ]


def test_every_site_in_order() -> None:
    found = [(site.name, site.part) for site in bert_sites(2)]
    first = [("bert.embeddings", Part.EMBEDDINGS), ("bert.embeddings_project", Part.EMBEDDINGS)]
    assert found == [*first, *in_layer(L0), *in_layer(L1)]


def test_the_sites_of_a_head() -> None:
    """They stand beside the encoder's, as none of them is ever in 8 bits."""
    sites = bert_sites(2)
    head = [sites.pooler, sites.pooler_activation, sites.pooler_norm, sites.head]
    assert [site.name for site in head] == ["pooler.dense", "pooler.activation", "pooler.norm", "qa_outputs"]
    assert all(site.part is Part.HEAD and not site.quantizers for site in head)
    assert not {site.name for site in head} & {site.name for site in sites}


def test_every_site_of_megatron() -> None:
    """Besides, the sums: but not that of the last layer, which nothing is added to."""
    found = [(site.name, site.part) for site in bert_sites(2, megatron=True)]
    sums = [(name, part) for name, part in found if part is Part.SUM]
    assert [item for item in found if item not in sums] == [(site.name, site.part) for site in bert_sites(2)]
    normed = ("bert.embeddings", f"{L0}.attention.output.LayerNorm", f"{L0}.output.LayerNorm", f"{L1}.attention.output.LayerNorm")
    assert sums == [(f"{name}.sum", Part.SUM) for name in normed]
    for name in normed:
        assert found.index((f"{name}.sum", Part.SUM)) == [each for each, _ in found].index(name) + 1


@pytest.mark.parametrize("megatron", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3, 24])
def test_names_are_unique(num_layers: int, megatron: bool) -> None:
    names = [site.name for site in bert_sites(num_layers, megatron)]
    assert len(names) == len(set(names)) == 2 + 9 * num_layers + megatron * 2 * num_layers
    quantizers = Counter(name for site in bert_sites(num_layers, megatron) for name in site.quantizers)
    assert set(quantizers.values()) == {1}


def test_names_are_hugging_face_s() -> None:
    """But for those of what Hugging Face has no module of its own for."""
    known = {name for name, _ in random_model(small_config()).named_modules()}
    ours = {Part.QKV, Part.PROBABILITIES, Part.ACTIVATION, Part.SUM}
    sites = bert_sites(2, megatron=True)
    for site in (*sites, sites.head):
        assert (site.name in known) == (site.part not in ours and site is not sites.projection), site.name


def test_quantizers() -> None:
    """The names that NVIDIA's toolkit gives them (docs/checkpoints.md)."""
    expected = {
        "bert.embeddings": [f"{L0}.attention.self.query._input_quantizer"],
        "bert.embeddings_project": [],
        f"{L0}.attention.self.qkv": [f"{L0}.attention.self.{name}_input_quantizer" for name in ("qv_a", "qv_b", "av_b")],
        f"{L0}.attention.self": [f"{L0}.attention.output.dense._input_quantizer"],
        f"{L0}.attention.self.probabilities": [f"{L0}.attention.self.av_a_input_quantizer"],
        f"{L0}.attention.output.dense": [f"{L0}.attention.output.add_local_input_quantizer"],
        f"{L0}.attention.output.LayerNorm": [f"{L0}.intermediate.dense._input_quantizer"],
        f"{L0}.intermediate.dense": [],
        f"{L0}.intermediate.gelu": [f"{L0}.output.dense._input_quantizer"],
        f"{L0}.output.dense": [f"{L0}.output.add_local_input_quantizer"],
        f"{L0}.output.LayerNorm": ["bert.encoder.final_input_quantizer"],
    }
    assert {site.name: list(site.quantizers) for site in bert_sites(1)} == expected
    of_two = {site.name: list(site.quantizers) for site in bert_sites(2)}
    assert of_two[f"{L0}.output.LayerNorm"] == [f"{L1}.attention.self.query._input_quantizer"]
    assert of_two[f"{L1}.output.LayerNorm"] == ["bert.encoder.final_input_quantizer"]


def test_quantizers_of_megatron_s_residuals() -> None:
    """A sum has the quantizer of the addition that takes it, which is the next one."""
    found = {site.name: list(site.quantizers) for site in bert_sites(2, megatron=True) if site.part is Part.SUM}
    assert found == {
        "bert.embeddings.sum": [f"{L0}.attention.output.add_residual_input_quantizer"],
        f"{L0}.attention.output.LayerNorm.sum": [f"{L0}.output.add_residual_input_quantizer"],
        f"{L0}.output.LayerNorm.sum": [f"{L1}.attention.output.add_residual_input_quantizer"],
        f"{L1}.attention.output.LayerNorm.sum": [f"{L1}.output.add_residual_input_quantizer"],
    }


def test_query_quantizers() -> None:
    expected = {f"bert.encoder.layer.{i}.attention.self.qv_a_input_quantizer" for i in range(3)}
    assert query_quantizers(bert_sites(3)) == query_quantizers(bert_sites(3, megatron=True)) == expected


def test_sites_inside_of_others() -> None:
    sites = bert_sites(2, megatron=True)
    normed = [sites.embeddings]
    for layer in sites.layers:
        assert layer.attention.probabilities
        normed += [layer.attention_norm, layer.output_norm]
    assert [site.residual is not None for site in normed] == [True, True, True, True, False]
    assert not any(site.residual for site in bert_sites(2))


def test_kinds_of_parts() -> None:
    """What is projected is what projections read: the tensor that the call before each of them gives."""
    sites = bert_sites(2)
    calls = [site.part for site in sites if site.part is not Part.PROBABILITIES and site is not sites.projection]
    before: dict[Part, Part] = dict(zip(calls[1:], calls))
    assert {before[part] for part in PROJECTIONS} | {Part.EMBEDDINGS} == PROJECTED
    assert {before[part] for part in NORMS} == ADDED
    assert PROJECTIONS >= ADDED


# Of other networks


@pytest.mark.parametrize("megatron", [False, True])
def test_sites_of_narrow_embeddings(megatron: bool) -> None:
    """What the layers read, and so has the range, is their projection."""
    bert, found = bert_sites(2, megatron), factorised_sites(2, megatron)
    assert found.layers == bert.layers
    assert found.embeddings == Site("bert.embeddings", Part.EMBEDDINGS)
    assert found.projection.name == bert.projection.name
    assert (found.projection.quantizers, found.projection.residual) == (bert.embeddings.quantizers, bert.embeddings.residual)
    assert found.head == bert.head


def test_sites_of_an_encoder_that_normalises_first() -> None:
    """Every residual is a sum, but the first, which is the embeddings as they are."""
    sums, found = bert_sites(3, megatron=True), pre_norm_sites(3)
    assert found.layers == sums.layers
    assert sums.embeddings.residual and not found.embeddings.residual
    assert found.embeddings == bert_sites(3).embeddings
