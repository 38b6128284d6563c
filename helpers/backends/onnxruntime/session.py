"""Runs an ONNX engine on the CPU with ONNX Runtime."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnxruntime

from helpers.backends.base import Session
from helpers.errors import InputError
from helpers.layouts import Batch, Layout, Packed, Padded, Profile, is_packed

# Beyond some 512 tokens what one operator writes has left the cache when the next one reads it: a batch of 768 takes 4 %
# more time a token, one of 2,048 24 %, in float32 and int8, padded and packed. Short sequences alone lose up to 30 %, and
# 256 tokens are enough for them (docs/benchmarks.md).
BEST_TOKENS = 256


class OnnxRuntimeSession(Session):
    """Sequences of any length up to the longest profile's run without padding to it."""

    backend = runtime = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self, path: Path) -> None:
        """Loads an engine that a builder wrote. Raises InputError where the file is not one."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors reach us as exceptions
        options.enable_mem_pattern = False  # a plan of memory for each shape, and hardly two batches have the same
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
            # Of its own accord it takes all of the machine's cores, whose threads then spin for the few that are ours.
            options.intra_op_num_threads = len(os.sched_getaffinity(0))
        try:
            # That fusion makes Gemm of the products of a packed engine, which int8 then does not reach.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
            profiles = [Profile(*profile) for profile in json.loads(metadata["profiles"])]
            self.vocab_size = int(metadata["vocab_size"]) if "vocab_size" in metadata else None
            packed = is_packed([entry.name for entry in self._session.get_inputs()])
            shape = self._session.get_outputs()[0].shape
            pooled = shape[0] == "batch" and len(shape) == 2
            shared: dict[str, Any] = {
                "best_tokens": BEST_TOKENS,
                "width": shape[0 if packed and not pooled else -1],
                "pooled": pooled,
            }
            self.layout: Layout = Packed(profiles, **shared) if packed else Padded(profiles, any_length=True, **shared)
        except Exception as e:  # onnxruntime's own exceptions share no base but Exception
            raise InputError(f"{path} is not a whole ONNX engine of this project, build it again: {str(e)[:200]}") from e
        self.device = platform.processor() or platform.machine()

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            self.layout.profile(batch)  # refuses what the engine was not built for
            [output] = self._session.run(["logits"], self.layout.feed(batch))
            yield self.layout.logits(output, batch)

    def timed(self, batch: Batch) -> Callable[[], float]:
        feed = self.layout.feed(batch)

        def once() -> float:
            start = time.perf_counter()
            self._session.run(["logits"], feed)
            return (time.perf_counter() - start) * 1e3

        return once

    def close(self) -> None:
        self._session = None
