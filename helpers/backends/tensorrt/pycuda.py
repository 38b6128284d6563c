"""Runs a TensorRT engine through PyCUDA: copies in, the network, and copies out overlap from batch to batch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from helpers.backends.base import Session
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.plugins import nvidia
from helpers.backends.tensorrt.runtime import RESERVE, check_memory, telling_of_memory
from helpers.errors import InputError
from helpers.layouts import Batch, Layout, Packed, Padded, Profile, is_packed

DEPTH = 3  # batches under way at once: one computes, the next is copied in, the one before is copied out and read


class PyCudaSession(Session):
    """A padded or packed engine; its inputs tell which."""

    backend, runtime = "tensorrt", "pycuda"

    def __init__(self, path: Path) -> None:
        """Deserializes an engine. Raises InputError where it is damaged, made elsewhere, or too large for the GPU."""
        self.trt, self.cuda = runtime.load(), runtime.cuda()
        self.version, self.device = self.trt.__version__, runtime.gpu()[0]
        with telling_of_memory("loading the engine"):
            # Some plugins abort the process where memory for their weights runs out, so that is found out before.
            check_memory(path.stat().st_size + RESERVE, "the engine's weights and kernels")
            self._engine = deserialized(path)
            self.layout, largest = read_profiles(self._engine)
            check_memory(self._engine.device_memory_size + RESERVE, "the network's activations and kernels")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RuntimeError(f"TensorRT cannot make an execution context: {runtime.complaint()}")
            check_memory(4 * DEPTH * sum(largest.values()), f"inputs and outputs of {DEPTH} batches")
            self._slots = [_Slot(self.cuda, largest) for _ in range(DEPTH)]
            self._upload, self._compute, self._download = (self.cuda.Stream() for _ in range(3))

    def _bind(self, slot: _Slot, batch: Batch) -> Mapping[str, np.ndarray]:
        """Sets the tightest profile, the shapes and the addresses for a batch; gives the engine's inputs."""
        index, feed = self.layout.profile(batch), self.layout.feed(batch)
        if index != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(index, self._compute.handle)
        for name, array in feed.items():
            self._context.set_input_shape(name, array.shape)
            self._context.set_tensor_address(name, int(slot.device[name]))
        self._context.set_tensor_address("logits", int(slot.device["logits"]))
        return feed

    def _enqueue(self) -> None:
        """Launches the network on the compute stream, with what `_bind` set."""
        if not self._context.execute_async_v3(self._compute.handle):
            raise RuntimeError(f"TensorRT cannot run the engine: {runtime.complaint()}")

    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        under_way: deque[tuple[_Slot, Batch, int]] = deque()
        with telling_of_memory("running the engine"):
            for number, batch in enumerate(batches):
                if len(under_way) == DEPTH:
                    yield self._finish(*under_way.popleft())
                slot = self._slots[number % DEPTH]
                under_way.append((slot, batch, self._start(slot, batch)))
            while under_way:
                yield self._finish(*under_way.popleft())

    def _start(self, slot: _Slot, batch: Batch) -> int:
        """Sends a batch on its way; returns the number of its logits."""
        feed = self._bind(slot, batch)
        for name, array in feed.items():
            host = slot.host[name][: array.size]
            host[:] = array.ravel()
            self.cuda.memcpy_htod_async(slot.device[name], host, self._upload)
        slot.uploaded.record(self._upload)
        self._compute.wait_for_event(slot.uploaded)
        self._enqueue()
        slot.computed.record(self._compute)
        self._download.wait_for_event(slot.computed)
        size = math.prod(self._context.get_tensor_shape("logits"))
        self.cuda.memcpy_dtoh_async(slot.host["logits"][:size], slot.device["logits"], self._download)
        slot.downloaded.record(self._download)
        return size

    def _finish(self, slot: _Slot, batch: Batch, size: int) -> np.ndarray:
        slot.downloaded.synchronize()
        return self.layout.logits(slot.host["logits"][:size].copy(), batch)

    def close(self) -> None:
        """Frees buffers, context and engine, in this order; what is under way is waited for."""
        if self._slots:
            self.cuda.Context.synchronize()
        for slot in self._slots:
            slot.free()
        self._slots = []
        self._context = self._engine = None

    def timed(self, batch: Batch) -> Callable[[], float]:
        slot = self._slots[0]
        feed = self._bind(slot, batch)
        for name, array in feed.items():
            self.cuda.memcpy_htod(slot.device[name], np.ascontiguousarray(array))
        start, end = self.cuda.Event(), self.cuda.Event()

        def once() -> float:
            with telling_of_memory("running the engine"):
                start.record(self._compute)
                self._enqueue()
                end.record(self._compute)
                end.synchronize()
                return float(end.time_since(start))

        return once


def deserialized(path: Path) -> Any:
    """The engine in a file. Raises InputError where it is damaged or made elsewhere, or there is no memory for it."""
    engine = runtime.made("Runtime").deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        reason = runtime.complaint()
        if runtime.is_out_of_memory(reason):
            raise RuntimeError(reason)
        raise InputError(f"engine {path} cannot be loaded, build it again: {reason}")
    return engine


def read_profiles(engine: Any) -> tuple[Layout, dict[str, int]]:
    """An engine's layout, and the most elements that each of its tensors has in any profile.

    Raises:
        InputError: it is an engine of another network.
    """
    trt = runtime.load()
    kinds = {name: engine.get_tensor_dtype(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}
    packed = is_packed(list(kinds))
    inputs = list((Packed if packed else Padded).inputs)
    ours = kinds == {**dict.fromkeys(inputs, trt.int32), "logits": trt.float32}
    if not ours or len(engine.get_tensor_shape("logits")) != (4 if packed else 5):
        raise InputError(f"the engine is not one of this project, its tensors: {', '.join(kinds)}", "build one with builder.py")
    shapes = [
        {name: tuple(engine.get_tensor_profile_shape(name, i)[2]) for name in inputs}
        for i in range(engine.num_optimization_profiles)
    ]
    lengths = [shape["max_seqlen" if packed else "input_mask"][-1] for shape in shapes]
    profiles = [Profile(math.prod(shape["input_ids"]) // length, length) for shape, length in zip(shapes, lengths)]
    width, pooled = rows_of(tuple(engine.get_tensor_shape("logits")), packed)
    largest = {name: max(math.prod(shape[name]) for shape in shapes) for name in inputs}
    sequences = largest["cu_seqlens"] - 1 if packed else max(profile.batch_size for profile in profiles)
    largest["logits"] = width * (sequences if pooled else largest["input_ids"])
    return layout_of(packed, profiles, width, pooled), largest


def rows_of(output: Sequence[int], packed: bool) -> tuple[int, bool]:
    """The width of an output's rows, and whether they are pooled. Axes that vary are -1: T or B, and S between profiles."""
    return (max(output[:2]), output[1] != -1) if packed else (output[2], output[1] == 1)


def layout_of(packed: bool, profiles: Sequence[Profile], width: int, pooled: bool) -> Layout:
    """The layout of an engine; attention kernels of a packed one go by length class."""
    if packed:
        return Packed(profiles, length_classes=nvidia.LENGTH_CLASSES, width=width, pooled=pooled)
    return Padded(profiles, any_length=False, width=width, pooled=pooled)


class _Slot:
    """Buffers for one batch, by tensor: pinned on the host, and on the device."""

    def __init__(self, cuda: Any, largest: Mapping[str, int]) -> None:
        dtypes = {name: np.float32 if name == "logits" else np.int32 for name in largest}
        self.host = {name: cuda.pagelocked_empty(size, dtypes[name]) for name, size in largest.items()}
        self.device = {name: cuda.mem_alloc(host.nbytes) for name, host in self.host.items()}
        self.uploaded, self.computed, self.downloaded = (cuda.Event() for _ in range(3))

    def free(self) -> None:
        for device in self.device.values():
            device.free()
        self.host, self.device = {}, {}
