"""The network on ONNX Runtime against Hugging Face's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.bert import bert_qa
from helpers.config import BertConfig
from helpers.graph import Graph
from helpers.layouts import Batch, Profile, bounds_of
from helpers.sites import Site, bert_sites
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


class Calls(Graph[str, None]):
    """Writes down each call of the network: its site, and whatever else it is given that is not weights."""

    num_heads, qkv_by_head = 4, False

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.read: list[tuple[str, ...]] = []

    def _called(self, site: Site, *read: str) -> str:
        self.sites.append(site)
        self.read.append(read)
        return site.name

    def embeddings(self, weights: Any, site: Site) -> tuple[str, str, None]:
        return self._called(site), f"residual of {site.name}", None

    def linear(self, x: str, weights: Any, site: Site) -> str:
        return self._called(site, x)

    def attention(self, qkv: str, sequences: None, site: Site) -> str:
        return self._called(site, qkv)

    def skip_layer_norm(self, x: str, residual: str, norm: Any, site: Site) -> tuple[str, str]:
        return self._called(site, x, residual), f"residual of {site.name}"

    def activation(self, x: str, site: Site) -> str:
        return self._called(site, x)

    def logits(self, x: str) -> None:
        self.read.append((x,))


def test_the_calls_of_one_layer() -> None:
    config = small_config(num_hidden_layers=1)
    graph, sites = Calls(), bert_sites(1)
    bert_qa(graph, random_weights(config), sites)
    layer = "bert.encoder.layer.0"
    assert [site.name for site in graph.sites] == [
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
    names = [site.name for site in graph.sites]
    inputs = [(), *((name,) for name in names)]
    inputs[4] = (names[3], "residual of bert.embeddings")
    inputs[8] = (names[7], f"residual of {names[4]}")
    assert graph.read == inputs


@pytest.mark.parametrize("megatron", [False, True])
def test_every_site_is_called_once(megatron: bool) -> None:
    config = small_config(num_hidden_layers=3)
    graph, sites = Calls(), bert_sites(3, megatron)
    bert_qa(graph, random_weights(config), sites)
    inside = [site for each in sites for site in (each.probabilities, each.residual) if site]
    assert graph.sites == [site for site in sites if site not in inside]
    assert len(inside) == 3 + 6 * megatron
