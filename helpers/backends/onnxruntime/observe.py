"""Runs the float32 network and shows what is inside of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnxruntime

from helpers.backends.base import Network
from helpers.backends.onnxruntime.graph import PaddedOnnxGraph
from helpers.layouts import Batch, Padded, Profile
from helpers.sites import Site


def observe(network: Network, seen: Sequence[Site], batches: Iterable[Batch]) -> Iterator[list[np.ndarray]]:
    """Yields the value of each site in `seen` for each batch: [B, N, S, S] for probabilities, else [B, S, channels]."""
    graph = PaddedOnnxGraph(network)
    network.add_to(graph)
    graph.expose(seen)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        bytes(graph.model({}, "take a checkpoint that has activation ranges")), settings, providers=["CPUExecutionProvider"]
    )
    layout = Padded([Profile(1, network.config.max_position_embeddings)], any_length=True)
    for batch in batches:
        yield session.run([site.name for site in seen], layout.feed(batch))
