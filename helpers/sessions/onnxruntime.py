"""Runs an ONNX engine on the CPU with ONNX Runtime."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Callable

import numpy as np
import onnxruntime

from helpers.errors import InputError
from helpers.sessions import Profile, Session
from helpers.windows import Batch


class OnnxRuntimeSession(Session):
    """Any sequence length up to the longest profile's runs without padding to it."""

    backend = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self, path: Path) -> None:
        """Loads an engine that builder.py wrote. Raises InputError where the file is not one."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            profiles = json.loads(self._session.get_modelmeta().custom_metadata_map["profiles"])
            self.profiles = [Profile(*profile) for profile in profiles]
        except Exception as e:  # onnxruntime's own exceptions share no base but Exception
            raise InputError(f"{path} is not a whole ONNX engine of this project, build it again: {str(e)[:200]}") from e
        self.device = platform.processor() or platform.machine()

    def padded_length(self, length: int) -> int:
        return length

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            yield self._session.run(["logits"], batch._asdict())[0]

    def timed(self, batch: Batch) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            self._session.run(["logits"], batch._asdict())
            return (time.perf_counter() - start) * 1e3

        return once
