"""TensorRT engines of small random models, batches for them, and the GPU's memory."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from helpers import backends, engine_file
from helpers.backends.base import Network, Session
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.backends.tensorrt import runtime
from helpers.config import FEATURE_EXTRACTION, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, BertConfig
from helpers.engine_file import Built
from helpers.layouts import Batch, Profile
from helpers.progress import Progress
from helpers.request import BuildRequest
from helpers.tokenization import Template
from helpers.weights import BertWeights, random_weights
from tests.batches import of_lengths, onnx_blob
from tests.wordpieces import letters

WIDE = BertConfig(200, 128, 2, 2, 256, 512, hidden_act="gelu_new")  # heads of 64
NARROW = BertConfig(200, 96, 2, 3, 256, 512, hidden_act="gelu_new")  # heads of 32, which float16 pads


# Every task but question answering, and its labels, a letter each.
OTHER_TASKS = pytest.mark.parametrize(
    ("task", "labels"),
    [
        (TOKEN_CLASSIFICATION, "abcdefghi"),
        (FEATURE_EXTRACTION, ""),
        (SEQUENCE_CLASSIFICATION, "abc"),
        (SEQUENCE_CLASSIFICATION, "a"),
    ],
    ids=lambda value: value or "hidden",
)


def lively(config: BertConfig, seed: int = 1, scale: float = 4, scale_of_scores: float = 4) -> BertWeights:
    """Random weights that are large enough for attention to prefer some tokens over others."""

    def size(name: str) -> np.float32:
        return np.float32(1 if "LayerNorm" in name else scale_of_scores if ".query." in name or ".key." in name else scale)

    return BertWeights.from_tensors({name: array * size(name) for name, array in random_weights(config, seed).tensors().items()})


def ragged(size: int, length: int, seed: int) -> Batch:
    """Random tokens; one sequence has `length`, the others have less or as many."""
    lengths = np.random.default_rng(seed).integers(1, length + 1, size).tolist()
    return of_lengths([length, *lengths[1:]], WIDE, seed)


class Heard(Progress):
    """Keeps warnings, or hands them to what is given."""

    def __init__(self, warn: Callable[[str], Any] | None = None) -> None:
        self.warnings: list[str] = []
        self.tell = warn or self.warnings.append

    def warn(self, text: str) -> None:
        self.tell(text)


def request_for(profiles: list[Profile], **fields: Any) -> BuildRequest:
    """A request for what its caller has in memory: neither a checkpoint nor a vocabulary is read."""
    source = "pickle" if fields.get("megatron") else "pytorch"
    return BuildRequest(source, Path("none"), tuple(profiles), vocab_file=Path("none"), **fields)


def build(
    weights: BertWeights,
    config: BertConfig,
    request: BuildRequest,
    progress: Progress | None = None,
    ranges: Mapping[str, float] | None = None,
    backend: str = "tensorrt",
) -> Built:
    """An engine whose sizes have been looked at first, as `Backend.build` does."""
    progress, maker = progress or Heard(), backends.find(backend)
    maker.check(request, config, progress.warn)
    maker.check_weights(weights, config, progress.warn)
    weights = maker.adapt(weights, config, request)
    sites = config.family.sites(config, request.megatron)
    network = Network(config, weights, sites, maker.precision(request), ranges or {})
    compiled = maker.compile(network, request, progress)
    return Built(compiled.blob, maker.description_of(request, network, letters(), Template(), compiled.sparse_layers))


class Engines:
    """Builds each engine once, with its description."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(
        self,
        config: BertConfig,
        profiles: list[Profile],
        fp16: bool = False,
        packed: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        path = self.folder / f"{config.task}-{config.hidden_size}-{profiles}-{fp16}-{packed}".replace(" ", "")
        if not path.exists():
            request = request_for(profiles, packed=packed, fp16=fp16, strict=not fp16)
            engine_file.save(path, build(lively(config), config, request, progress))
        return path

    def reference(self, config: BertConfig) -> Session:
        path = self.folder / f"{config.hidden_size}.onnx"
        path.write_bytes(onnx_blob(lively(config), config, [Profile(64, 512)]))
        return OnnxRuntimeSession(path)


def opened(path: Path, backend: str = "auto", **options: Any) -> Session:
    session, _ = backends.open_engine(path, backend, **options)
    return session


def gpu_memory() -> int:
    """Bytes in use on the GPU, by whomever."""
    gc.collect()
    cuda = runtime.cuda()
    cuda.Context.synchronize()
    free, total = cuda.mem_get_info()
    return int(total - free)


def held_and_left(work: Callable[[], Callable[[], object]]) -> tuple[int, int]:
    """Bytes on the GPU that some work holds until what it returns is called, and those that it leaves behind.

    It is done thrice, as kernels and cuBLAS stay loaded.
    """
    for _ in range(3):
        before = gpu_memory()
        close = work()
        held = gpu_memory() - before
        close()
        left = gpu_memory() - before
    return held, left
