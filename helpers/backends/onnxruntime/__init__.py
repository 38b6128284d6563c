"""ONNX Runtime on the CPU: the embedded default, which every machine has. Its engines are ONNX models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers.backends.base import Backend, Compiled, Device, Network, Session
from helpers.config import BertConfig
from helpers.engine_file import Description
from helpers.layouts import Batch
from helpers.precision import Precision, choose
from helpers.progress import Progress
from helpers.quantization import ranges
from helpers.request import BuildRequest
from helpers.sites import Site, Sites
from helpers.weights import BertWeights


class OnnxRuntime(Backend):
    name = "onnxruntime"
    title = "ONNX Runtime on the CPU"
    engines = "an ONNX model"
    on_gpu = False
    runtimes = ("onnxruntime",)
    ignores = ("fp16", "strict", "sparse", "interleaved", "int8_attention", "int8_skip_layer_norm", "output_gemm")

    def check_available(self) -> None:
        """It is among the project's requirements."""

    def device(self) -> Device:
        from helpers.backends.onnxruntime.model import OPSET

        return Device(f"opset {OPSET}")

    def recognises(self, head: bytes) -> bool:
        return head[:1] == b"\x08"  # an ONNX model begins with field 1, its IR version

    def precision(self, request: BuildRequest) -> Precision:
        return choose(fp16=False, int8=request.int8)

    def check(self, request: BuildRequest, config: BertConfig, warn: Callable[[str], None]) -> None:
        """It computes everything that a request can ask for."""

    def check_weights(self, weights: BertWeights, config: BertConfig, warn: Callable[[str], None]) -> None:
        """As they are."""

    def calibrated(self, found: Mapping[str, float], sites: Sites) -> Mapping[str, float]:
        return ranges.of_projections(found, sites)  # only what pays

    def compile(self, network: Network, request: BuildRequest, progress: Progress) -> Compiled:
        from helpers.backends.onnxruntime.graph import PackedOnnxGraph, PaddedOnnxGraph

        graph = (PackedOnnxGraph if request.packed else PaddedOnnxGraph)(network)
        network.add_to(graph)
        return Compiled(graph.model({"profiles": json.dumps(request.profiles), "vocab_size": str(network.config.vocab_size)}))

    def open(self, engine: Path, description: Description | None, runtime: str | None = None, **options: Any) -> Session:
        from helpers.backends.onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(engine)

    def observe(
        self, weights: BertWeights, config: BertConfig, sites: Sites, seen: Sequence[Site], batches: Iterable[Batch]
    ) -> Iterator[list[np.ndarray]]:
        """Runs the float32 network; yields the value of each site in `seen` for each batch, of one sequence."""
        from helpers.backends.onnxruntime.observe import observe

        return observe(Network(config, weights, sites, choose(False, False), {}), seen, batches)


BACKEND = OnnxRuntime()
