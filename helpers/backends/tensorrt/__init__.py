"""TensorRT 8.5.1 to 8.6 on NVIDIA GPUs, with NVIDIA's BERT plugins. Its engines are TensorRT plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from helpers.backends.base import Backend, Compiled, Device, Network, Session
from helpers.config import BertConfig
from helpers.engine_file import Description
from helpers.errors import InputError
from helpers.families.base import Family
from helpers.precision import Precision, choose
from helpers.progress import Progress
from helpers.request import BuildRequest
from helpers.transforms import pad_heads
from helpers.weights import BertWeights


class TensorRT(Backend):
    name = title = "tensorrt"
    engines = "a TensorRT plan"
    on_gpu = True
    runtimes = ("pycuda", "extension")

    def check_available(self) -> None:
        from helpers.backends.tensorrt import runtime

        runtime.check_available()

    def device(self) -> Device:
        from helpers.backends.tensorrt import runtime

        return Device(runtime.load().__version__, *runtime.gpu())

    def recognises(self, head: bytes) -> bool:
        return head[:4] in (b"ftrt", b"ptrt")

    def precision(self, request: BuildRequest) -> Precision:
        # The packed plugins have int8 attention and layer norm where they have int8 at all.
        return choose(
            request.fp16,
            request.int8,
            attention=request.packed or request.int8_attention,
            norms=request.packed or request.int8_skip_layer_norm,
            output_in_base=request.output_gemm,
        )

    def activation(self, config: BertConfig) -> str:
        return "tanh" if config.activation == "erf" else config.activation  # which TensorRT fuses into the projection before it

    def runs(self, family: Family) -> bool:
        return not family.beyond

    def check(self, request: BuildRequest, config: BertConfig, warn: Callable[[str], None]) -> None:
        from helpers.backends.tensorrt.plugins import nvidia

        if config.family.beyond:
            raise InputError(f"NVIDIA's plugins have no {config.family.beyond} ({config.model_type})", "use {backend}")
        nvidia.check(request, self.precision(request), config, self.device(), warn)
        if request.timing_cache:
            from helpers.backends.tensorrt import build

            build.check_timing_cache(request.timing_cache)

    def check_weights(self, weights: BertWeights, config: BertConfig, warn: Callable[[str], None]) -> None:
        from helpers.backends.tensorrt.plugins import nvidia

        nvidia.check_epsilon(weights, config.layer_norm_eps, warn)

    def adapt(self, weights: BertWeights, config: BertConfig, request: BuildRequest) -> BertWeights:
        from helpers.backends.tensorrt.plugins import nvidia

        return pad_heads(weights, config.num_attention_heads, nvidia.head_size(config, self.precision(request)))

    def fastest_int8(self, hidden_size: int, sequence_length: int, capability: tuple[int, int] | None) -> dict[str, bool]:
        from helpers.backends.tensorrt.plugins import nvidia

        return {"fp16": True, "strict": True, **nvidia.fastest_int8(hidden_size, sequence_length, capability or (0, 0))}

    def compile(self, network: Network, request: BuildRequest, progress: Progress) -> Compiled:
        from helpers.backends.tensorrt import build

        return build.compile_network(network, request, progress)

    def open(self, engine: Path, description: Description | None, runtime: str | None = None, **options: Any) -> Session:
        try:
            self.check_available()
        except InputError as e:
            raise InputError(f"{engine} is a TensorRT engine, but {e.problem}", e.hint) from e
        if description:
            self.check_same_machine(engine, description)
        if runtime == "extension":
            from helpers.backends.tensorrt.extension import ExtensionSession

            return ExtensionSession(engine, **options)
        from helpers.backends.tensorrt.pycuda import PyCudaSession

        return PyCudaSession(engine, **options)

    def check_same_machine(self, engine: Path, description: Description) -> None:
        """Raises InputError where an engine was built by another TensorRT or for another GPU than are here."""
        version, gpu, _ = self.device()
        if (description.version, description.gpu) != (version, gpu):
            raise InputError(
                f"engine {engine} was built by TensorRT {description.version} for {description.gpu}; "
                f"here are TensorRT {version} and {gpu}",
                "build it again",
            )


BACKEND = TensorRT()
