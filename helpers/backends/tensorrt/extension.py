"""Runs a TensorRT engine through the C++ extension infer_c, as plain launches or as CUDA graphs."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers.backends.base import Session
from helpers.backends.tensorrt.pycuda import layout_of
from helpers.backends.tensorrt.runtime import CLOSE, tell_of_aborts
from helpers.errors import InputError
from helpers.layouts import Batch, Profile

BUILD = Path(__file__).resolve().parents[3] / "build"  # where CMakeLists.txt is told to build


@functools.cache
def extension() -> Any:
    """The module infer_c. Raises InputError where it is not built for this Python, or lacks a library."""
    # Not by `import infer_c`, which would also find the folder of its sources.
    spec = PathFinder.find_spec("infer_c", [str(BUILD)])
    if spec is None or spec.loader is None:
        raise InputError(
            f"the extension infer_c is not in {BUILD} for this Python",
            f"build it, mkdir -p build; cd build; cmake .. -DPYTHON_EXECUTABLE={sys.executable}; make -j",
        )
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as e:
        raise InputError(f"{spec.origin} cannot be loaded ({e})", "is the folder of that library in LD_LIBRARY_PATH?") from e
    return module


class ExtensionSession(Session):
    """A padded or packed engine; its inputs tell which. One batch runs at a time, copies included in its graph."""

    backend, runtime = "tensorrt", "extension"

    def __init__(self, path: Path, enable_graph: bool = False) -> None:
        """Loads an engine. Raises InputError where it is damaged, made elsewhere, or too large for the GPU."""
        module = extension()
        tell_of_aborts()
        try:
            with telling_of_memory():
                self._engine = module.bert_inf(path, enable_graph=enable_graph)
        except (ValueError, OSError) as e:
            raise InputError(str(e)) from e
        self.version, self.device = self._engine.version, self._engine.device
        profiles = [Profile(*profile) for profile in self._engine.profiles]
        self.layout = layout_of(self._engine.packed, profiles, self._engine.width, self._engine.pooled)

    def _arrays(self, batch: Batch) -> dict[str, np.ndarray]:
        self.layout.profile(batch)  # refuses what the engine was not built for
        return {name: np.ascontiguousarray(array) for name, array in self.layout.feed(batch).items()}

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            arrays = self._arrays(batch)
            with telling_of_memory():
                logits = self._engine.run(**arrays)
            yield self.layout.logits(logits, batch)

    def timed(self, batch: Batch) -> Callable[[], float]:
        arrays = self._arrays(batch)

        def once() -> float:
            with telling_of_memory():
                return float(self._engine.time(**arrays))

        return once

    def close(self) -> None:
        self._engine.close()


@contextmanager
def telling_of_memory() -> Iterator[None]:
    """Raises InputError where the extension is out of GPU memory, which it says itself; of the host's it raises MemoryError."""
    try:
        yield
    except MemoryError as e:
        if "GPU" not in str(e):
            raise
        raise InputError(str(e), CLOSE) from e
