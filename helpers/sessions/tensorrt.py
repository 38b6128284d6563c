"""Runs a TensorRT engine through PyCUDA: copies in, the network, and copies out overlap from batch to batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers import trt as tensorrt_
from helpers.errors import InputError
from helpers.sessions import Profile, Session
from helpers.windows import Batch

DEPTH = 3  # batches under way at once: one computes, the next is copied in, the one before is copied out and read


class TensorRTSession(Session):
    """A padded engine. Each sequence length has profiles of its own."""

    backend = "tensorrt"

    def __init__(self, path: Path) -> None:
        """Deserializes an engine. Raises InputError where it is damaged, made elsewhere, or too large for the GPU."""
        self.trt, self.cuda = tensorrt_.load(), tensorrt_.cuda()
        log = tensorrt_.logger()
        engine = self.trt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise InputError(f"engine {path} cannot be loaded, build it again: {tensorrt_.complaint()}")
        self._engine = engine
        self.version = self.trt.__version__
        self.device = tensorrt_.gpu()[0]
        shapes = [engine.get_tensor_profile_shape("input_ids", i)[2] for i in range(engine.num_optimization_profiles)]
        self.profiles = [Profile(*shape) for shape in shapes]
        with _memory(self.cuda, f"{engine.device_memory_size >> 20} MiB for the network's activations"):
            self._context = engine.create_execution_context()
            if self._context is None:
                raise RuntimeError(tensorrt_.complaint())
            most = max(size * length for size, length in self.profiles)
            self._slots = [_Slot(self.cuda, most) for _ in range(DEPTH)]
        self._upload, self._compute, self._download = (self.cuda.Stream() for _ in range(3))

    def bind(self, slot: _Slot, shape: tuple[int, int]) -> None:
        """Sets the tightest profile, the shapes and the addresses for a batch of shape [B, S]."""
        fitting = [
            (profile.sequence_length, profile.batch_size, i)
            for i, profile in enumerate(self.profiles)
            if profile.sequence_length == shape[1] and profile.batch_size >= shape[0]
        ]
        if not fitting:
            raise InputError(
                f"batch {shape[0]} × {shape[1]} fits none of the engine's profiles {list(map(tuple, self.profiles))}"
            )
        index = min(fitting)[2]
        if index != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(index, self._compute.handle)
        for name, memory in zip(Batch._fields, slot.device_inputs):
            self._context.set_input_shape(name, shape)
            self._context.set_tensor_address(name, int(memory))
        self._context.set_tensor_address("logits", int(slot.device_logits))

    def enqueue(self) -> None:
        """Launches the network on the compute stream, with what `bind` set."""
        if not self._context.execute_async_v3(self._compute.handle):
            raise RuntimeError(f"TensorRT cannot run the engine: {tensorrt_.complaint()}")

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        under_way: deque[tuple[_Slot, tuple[int, int]]] = deque()
        for number, batch in enumerate(batches):
            if len(under_way) == DEPTH:
                yield self._finish(*under_way.popleft())
            slot, shape = self._slots[number % DEPTH], batch.input_ids.shape
            self._start(slot, batch, shape)
            under_way.append((slot, shape))
        while under_way:
            yield self._finish(*under_way.popleft())

    def timed(self, batch: Batch) -> Callable[[], float]:
        slot, shape = self._slots[0], batch.input_ids.shape
        self.bind(slot, shape)
        for array, device in zip(batch, slot.device_inputs):
            self.cuda.memcpy_htod(device, array)
        start, end = self.cuda.Event(), self.cuda.Event()

        def once() -> float:
            start.record(self._compute)
            self.enqueue()
            end.record(self._compute)
            end.synchronize()
            return float(end.time_since(start))

        return once

    def _start(self, slot: _Slot, batch: Batch, shape: tuple[int, int]) -> None:
        self.bind(slot, shape)
        for array, host, device in zip(batch, slot.host_inputs, slot.device_inputs):
            host[: array.size] = array.ravel()
            self.cuda.memcpy_htod_async(device, host[: array.size], self._upload)
        slot.uploaded.record(self._upload)
        self._compute.wait_for_event(slot.uploaded)
        self.enqueue()
        slot.computed.record(self._compute)
        self._download.wait_for_event(slot.computed)
        self.cuda.memcpy_dtoh_async(slot.host_logits[: 2 * batch.input_ids.size], slot.device_logits, self._download)
        slot.downloaded.record(self._download)

    def _finish(self, slot: _Slot, shape: tuple[int, int]) -> np.ndarray:
        slot.downloaded.synchronize()
        return slot.host_logits[: 2 * shape[0] * shape[1]].reshape(*shape, 2).copy()


class _Slot:
    """Buffers for one batch of up to `tokens` tokens: pinned on the host, and on the device."""

    def __init__(self, cuda: Any, tokens: int) -> None:
        self.host_inputs = [cuda.pagelocked_empty(tokens, np.int32) for _ in Batch._fields]
        self.host_logits = cuda.pagelocked_empty(2 * tokens, np.float32)
        self.device_inputs = [cuda.mem_alloc(host.nbytes) for host in self.host_inputs]
        self.device_logits = cuda.mem_alloc(self.host_logits.nbytes)
        self.uploaded, self.computed, self.downloaded = (cuda.Event() for _ in range(3))


@contextmanager
def _memory(cuda: Any, wanted: str) -> Iterator[None]:
    """Turns a failed allocation into an InputError that says what was asked for."""
    try:
        yield
    except (cuda.MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and not tensorrt_.is_out_of_memory(str(e)):
            raise
        free, total = (size >> 20 for size in cuda.mem_get_info())
        raise InputError(
            f"out of GPU memory: asked for {wanted}, free are {free} of {total} MiB; "
            "close what else uses the GPU, or build the engine with a smaller -b"
        ) from e
