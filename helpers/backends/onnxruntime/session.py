"""Runs an ONNX engine on the CPU with ONNX Runtime."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnxruntime

from helpers.backends.base import Session
from helpers.errors import InputError, listed
from helpers.layouts import Batch, Layout, Packed, Padded, Profile, is_packed
from helpers.reading import parse_json

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
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors reach us as exceptions
        options.enable_mem_pattern = False  # a plan of memory for each shape, and hardly two batches have the same
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
            # Of its own accord it takes all of the machine's cores, whose threads then spin for the few that are ours.
            options.intra_op_num_threads = len(os.sched_getaffinity(0))
        try:
            with open(path, "rb") as file:
                self._session = onnxruntime.InferenceSession(
                    name_of(path, file.fileno()),
                    options,
                    providers=["CPUExecutionProvider"],
                    # Makes Gemm of the products of a packed engine, which int8 then does not reach.
                    disabled_optimizers=["MatMulAddFusion"],
                    enable_fallback=False,  # to the same provider, with words about it on standard output
                )
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.layout = layout_of(self._session, parse_json(metadata["profiles"], "profiles"))
            self.vocab_size = size_of(int(metadata["vocab_size"])) if "vocab_size" in metadata else None
        except Exception as e:  # onnxruntime's own exceptions share no base but Exception
            raise InputError(f"{path} is not a whole ONNX engine of this project, build it again: {str(e)[:200]}") from e
        self.device = platform.processor() or platform.machine()

    def _run(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            [output] = self._session.run(["logits"], feed)
        except AttributeError:  # it is closed
            raise
        except Exception as e:
            raise InputError(
                f"engine {self._path} cannot be run: {str(e)[:200]}", "build it again, or lower {batch_size} if memory ran out"
            ) from e
        return output

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            self.layout.profile(batch)  # refuses what the engine was not built for
            output = self._run(self.layout.feed(batch))
            yield self.layout.logits(output, batch)

    def timed(self, batch: Batch) -> Callable[[], float]:
        feed = self.layout.feed(batch)

        def once() -> float:
            start = time.perf_counter()
            self._run(feed)
            return (time.perf_counter() - start) * 1e3

        return once

    def close(self) -> None:
        self._session = None


def name_of(path: Path, descriptor: int) -> str:
    """A name of a file in Unicode, which onnxruntime wants; other names go by the open file's descriptor."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"/proc/self/fd/{descriptor}"
    return str(path)


def layout_of(session: Any, profiles: Any) -> Layout:
    """How batches lie in an engine's inputs and its output. Raises ValueError where they lie otherwise than in one of ours."""
    made = [Profile(*map(size_of, pair)) for pair in profiles]
    inputs = {entry.name: (entry.type, len(entry.shape)) for entry in session.get_inputs()}
    packed = is_packed([*inputs])
    kind: type[Layout] = Packed if packed else Padded
    if inputs != dict.fromkeys(kind.inputs, ("tensor(int32)", 1 if packed else 2)):
        raise ValueError(f"its inputs are {listed(list(inputs))}")
    [output] = session.get_outputs()
    shape = output.shape
    pooled = len(shape) == 2 and shape[0] == "batch"
    if (output.name, output.type, len(shape)) != ("logits", "tensor(float)", 2 if packed or pooled else 3):
        raise ValueError(f"its output is {output.name}")
    width = size_of(shape[0 if packed and not pooled else -1])
    shared: dict[str, Any] = {"best_tokens": BEST_TOKENS, "width": width, "pooled": pooled}
    return Packed(made, **shared) if packed else Padded(made, any_length=True, **shared)


def size_of(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{value!r:.60} is no size")
    return value
