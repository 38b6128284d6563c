"""The network on ONNX Runtime against Hugging Face's model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.bert import PROJECTION, bert, factorised
from helpers.config import BertConfig
from helpers.graph import Graph
from helpers.layouts import Batch, Profile, bounds_of
from helpers.sites import Site, bert_sites, factorised_sites
from helpers.weights import random_weights
from tests.batches import alone, difference, of_lengths, onnx_blob, ragged, run, sequences, session_of, theirs
from tests.models import SHAPES, random_model, shape_name, small_config, weights_of

BOUND = 1e-4  # of a logit

Pair = tuple[BertConfig, Any, OnnxRuntimeSession]


@pytest.fixture(scope="module", params=[False, True], ids=["padded", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", params=range(len(SHAPES)), ids=[shape_name(config) for config in SHAPES])
def pair(request: pytest.FixtureRequest, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = SHAPES[request.param]
    model = random_model(config, seed=request.param)
    return config, model, session_of(weights_of(model), config, tmp_path_factory.mktemp("engine"), packed)


@given(size=st.integers(1, 5), length=st.integers(1, 64), seed=st.integers(0, 2**32 - 1))
@example(size=1, length=1, seed=0)
@example(size=5, length=64, seed=1)
@settings(max_examples=12)
def test_logits(pair: Pair, size: int, length: int, seed: int) -> None:
    config, model, session = pair
    batch = ragged(config, size, min(length, config.max_position_embeddings), seed)
    assert difference(run(session, batch), theirs(model, batch), batch) <= BOUND


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_what_else_is_in_a_batch_changes_no_logit(pair: Pair, seed: int) -> None:
    """Neither other sequences, nor their lengths."""
    config, _, session = pair
    batch = ragged(config, 4, config.max_position_embeddings, seed)
    for row, logits in enumerate(sequences(run(session, batch), batch)):
        assert np.abs(run(session, alone(batch, row)) - logits).max() <= BOUND


def test_every_input_counts(pair: Pair) -> None:
    """Or the comparisons above would show little."""
    config, _, session = pair
    batch = of_lengths([8] * 3, config, 2)
    shorter = np.arange(24) % 8 < 5  # the first five of each sequence
    logits = run(session, batch)[shorter]
    others = (
        batch._replace(input_ids=(batch.input_ids + 1) % config.vocab_size),
        batch._replace(segment_ids=(batch.segment_ids + 1) % config.type_vocab_size),
    )
    for other in others:
        assert np.abs(run(session, other)[shorter] - logits).max() > 1e-2
    cut = Batch(batch.input_ids[shorter], batch.segment_ids[shorter], bounds_of([5] * 3))
    assert np.abs(run(session, cut) - logits).max() > 1e-2


# Each form of GELU


def test_the_forms_of_gelu() -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    erf, tanh = (torch.nn.functional.gelu(x, approximate=form) for form in ("none", "tanh"))
    assert 4e-4 < (erf - tanh).abs().max() < 5e-4


def test_a_model_is_computed_in_its_own_form_of_gelu(packed: bool, tmp_path: Path) -> None:
    """In the other one, as TensorRT has it whatever the checkpoint's is, logits of two such layers are off by up to 5e-3."""
    own: list[float] = []
    other: list[float] = []
    for seed in range(5):
        config = small_config(hidden_act="gelu")
        model = random_model(config, seed)
        batch = ragged(config, 5, 64, seed)
        for act, errors in (("gelu", own), ("gelu_new", other)):
            session = session_of(weights_of(model), small_config(hidden_act=act), tmp_path, packed)
            errors.append(difference(run(session, batch), theirs(model, batch), batch))
    assert max(own) < 1e-5
    assert 1e-4 < max(other) < 5e-3


@pytest.mark.parametrize(("act", "same"), [("gelu", False), ("gelu_new", True), ("gelu_pytorch_tanh", True)])
def test_activations_of_one_form_give_one_engine(act: str, same: bool) -> None:
    config = small_config()
    weights = random_weights(config)
    blobs = [onnx_blob(weights, small_config(hidden_act=name), [Profile(1, 8)]) for name in (act, "gelu_new")]
    assert (blobs[0] == blobs[1]) == same


# The calls


class Calls(Graph[str, str]):
    """Writes down each call of the network: its site, and whatever else it is given that is not weights."""

    num_heads, qkv_by_head = 4, False

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.read: list[tuple[object, ...]] = []

    def _called(self, site: Site, *read: object) -> str:
        self.sites.append(site)
        self.read.append(read)
        return site.name

    def embeddings(self, weights: Any, site: Site) -> tuple[str, str, str]:
        return self._called(site), f"residual of {site.name}", "sequences"

    def linear(self, x: str, weights: Any, site: Site) -> str:
        return self._called(site, x)

    def attention(self, qkv: str, sequences: str, site: Site) -> str:
        return self._called(site, qkv, sequences)

    def skip_layer_norm(self, x: str, residual: str, norm: Any, site: Site) -> tuple[str, str]:
        return self._called(site, x, residual), f"residual of {site.name}"

    def residual(self, x: str) -> str:
        return f"residual of {x}"

    def activation(self, x: str, form: str, site: Site) -> str:
        return self._called(site, x, form)

    def first(self, x: str, sequences: str, site: Site) -> str:
        return f"first of {x}, by {sequences}"

    def outputs(self, x: str, width: int, pooled: bool) -> None:
        self.read.append((x, width, pooled))


def test_the_calls_of_one_layer() -> None:
    config = small_config(num_hidden_layers=1)
    graph, sites = Calls(), bert_sites(1)
    bert(graph, random_weights(config), sites, config)
    layer = "bert.encoder.layer.0"
    names = [
        "bert.embeddings",
        f"{layer}.attention.self.qkv",
        f"{layer}.attention.self",
        f"{layer}.attention.output.dense",
        f"{layer}.attention.output.LayerNorm",
        f"{layer}.intermediate.dense",
        f"{layer}.intermediate.gelu",
        f"{layer}.output.dense",
        f"{layer}.output.LayerNorm",
        "qa_outputs",
    ]
    assert [site.name for site in graph.sites] == names
    inputs: list[tuple[object, ...]] = [(), *((name,) for name in names[:-1]), ("qa_outputs", 2, False)]
    inputs[2] = (names[1], "sequences")
    inputs[4] = (names[3], "residual of bert.embeddings")
    inputs[6] = (names[5], "tanh")
    inputs[8] = (names[7], f"residual of {names[4]}")
    assert graph.read == inputs


@pytest.mark.parametrize("megatron", [False, True])
def test_every_site_is_called_once(megatron: bool) -> None:
    """In order; and besides the encoder's the head's, as far as the task has one."""
    config = small_config(num_hidden_layers=3)
    graph, sites = Calls(), bert_sites(3, megatron)
    bert(graph, random_weights(config), sites, config)
    inside = [site for each in sites for site in (each.probabilities, each.residual) if site]
    encoder = [site for site in sites if site not in inside and site is not sites.projection]
    assert graph.sites == [*encoder, sites.head]
    assert len(inside) == 3 + 6 * megatron


def test_the_calls_of_narrow_embeddings() -> None:
    """Their projection is what the first layer reads, and its residual."""
    config = small_config(num_hidden_layers=1)
    weights = random_weights(config)
    further = {f"{PROJECTION}.{kind}": np.zeros(1, np.float32) for kind in ("weight", "bias")}
    graph, sites = Calls(), factorised_sites(1)
    factorised(graph, replace(weights, further=further), sites, config)
    assert graph.sites[:3] == [sites.embeddings, sites.projection, sites.layers[0].qkv]
    assert graph.read[:3] == [(), ("bert.embeddings",), ("bert.embeddings_project",)]
    assert graph.read[graph.sites.index(sites.layers[0].attention_norm)][1] == "residual of bert.embeddings_project"


LAST = "bert.encoder.layer.1.output.LayerNorm"
HEADS: dict[str, tuple[list[str], list[tuple[object, ...]]]] = {
    "question-answering": (["qa_outputs"], [(LAST,), ("qa_outputs", 3, False)]),
    "token-classification": (["qa_outputs"], [(LAST,), ("qa_outputs", 3, False)]),
    "sequence-classification": (
        ["pooler.dense", "pooler.activation", "qa_outputs"],
        [
            (f"first of {LAST}, by sequences",),
            ("pooler.dense", "hyperbolic"),
            ("pooler.activation",),
            ("qa_outputs", 3, True),
        ],
    ),
    "feature-extraction": ([], [(LAST, 32, False)]),
}


@pytest.mark.parametrize("task", HEADS)
def test_the_calls_of_a_head(task: str) -> None:
    config = small_config(task=task, labels=() if task == "feature-extraction" else ("a", "b", "c"))
    graph, sites = Calls(), bert_sites(2)
    bert(graph, random_weights(config), sites, config)
    names, read = HEADS[task]
    assert [site.name for site in graph.sites[1 + 2 * 8 :]] == names
    assert graph.read[1 + 2 * 8 :] == read
