"""TensorRT itself: whether it can be used here, its log, its plugin library, and what differs between versions.

Written for TensorRT 8.5.1 to 8.6.x.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from helpers.errors import Busy, InputError

SUPPORTED = ((8, 5), (9, 0))  # from, up to but without
RESERVE = 256 << 20  # bytes of GPU memory that a load leaves free, for kernels, cuBLAS and what plugins take for themselves
CLOSE = "close what else uses the GPU, or build the engine with a smaller {batch_size}"


@functools.cache
def load() -> Any:
    """The tensorrt module, its plugins registered. Raises InputError that says what is missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as e:
        raise InputError(
            f"TensorRT cannot be imported ({e})",
            "pip install -r requirements-gpu.txt under CPython 3.10 or older, or use {backend}",
        ) from e
    if not SUPPORTED[0] <= tuple(map(int, tensorrt.__version__.split(".")[:2])) < SUPPORTED[1]:
        raise InputError(f"TensorRT {tensorrt.__version__} is not supported: versions 8.5.1 to 8.6 have what this project uses")
    return tensorrt


@functools.cache
def cuda() -> Any:
    """The pycuda.driver module, with the first GPU's primary context current. Raises InputError that says what is missing."""
    try:
        import pycuda.driver as driver
    except (ImportError, OSError) as e:
        raise InputError(f"PyCUDA cannot be imported ({e})", "pip install -r requirements-gpu.txt, or use {backend}") from e
    try:
        driver.init()
        if not driver.Device.count():
            raise InputError("no GPU is visible", "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use {backend}")
        context = driver.Device(0).retain_primary_context()
        context.push()
    except driver.Error as e:
        if is_out_of_memory(str(e)):
            raise Busy(f"no GPU can be used ({e})", "close what else uses it, or use {backend}") from e
        raise InputError(f"no GPU can be used ({e})", "check nvidia-smi, or use {backend}") from e
    import atexit

    atexit.register(context.pop)
    return driver


def check_available() -> None:
    """Raises InputError that says what is missing: TensorRT, PyCUDA or a GPU."""
    load()
    cuda()


def gpu() -> tuple[str, tuple[int, int]]:
    """Name and compute capability of the GPU in use."""
    device = cuda().Context.get_device()
    return device.name(), device.compute_capability()


@functools.cache
def logger() -> Any:
    """TensorRT's one logger. It keeps what TensorRT complains about, for our own messages, and prints when verbose."""
    trt = load()

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.verbose = False
            self.errors: list[str] = []
            self.warning: list[str] = []  # the last one
            self.listener: Callable[[str], None] = lambda message: None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warning = [message]
            self.listener(message)
            if self.verbose:
                print(f"[TensorRT {severity.name.lower()}] {message}", flush=True)

    tell_of_aborts()
    log = Log()
    trt.init_libnvinfer_plugins(log, "")
    return log


@functools.cache
def tell_of_aborts() -> object:
    """From here on an abort ends this process with a line and status 1, not by SIGABRT, where nobody else looks after it.

    NVIDIA's plugins abort where the GPU's memory runs out. That there is enough is looked at before, but others may take
    it meanwhile. The handler runs in the thread that aborts, as a call of it: it may take the GIL.
    """
    if faulthandler.is_enabled() or signal.getsignal(signal.SIGABRT) != signal.SIG_DFL:
        return None
    libc = ctypes.CDLL(None)
    reason = "as plugins do where the GPU's memory runs out"
    told = InputError(f"a library of NVIDIA's gave up, {reason}", "close what else uses the GPU")
    line = f"error: {told}\n".encode()

    def gave_up(number: int) -> None:
        libc.alarm(2)  # for the case that the heap is what is broken, and Python waits for it
        libc.write(2, line, len(line))
        libc._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(gave_up)
    libc.signal(signal.SIGABRT, handler)
    return handler  # kept in the cache, for as long as it may be called


def made(kind: str) -> Any:
    """TensorRT's `Builder` or `Runtime`. Raises RuntimeError with its reason where there is none."""
    try:
        return getattr(load(), kind)(logger())
    except TypeError as e:  # which says no more than that nothing was made
        raise RuntimeError(f"TensorRT cannot make its {kind.lower()}: {complaint()}") from e


def set_optimization_level(settings: Any, level: int) -> None:
    """How long the builder searches for fast kernels, 0 to 5; TensorRT 8.5 has no such choice."""
    if hasattr(settings, "builder_optimization_level"):
        settings.builder_optimization_level = level


def share_profiles(settings: Any) -> None:
    """Lets several execution contexts use one optimization profile, which CUDA graphs and threads do; from TensorRT 8.6."""
    features = getattr(load(), "PreviewFeature", None)
    if features and hasattr(features, "PROFILE_SHARING_0806"):
        settings.set_preview_feature(features.PROFILE_SHARING_0806, True)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hands every message of TensorRT's to `listener` meanwhile."""
    log = logger()
    before, log.listener = log.listener, listener
    try:
        yield
    finally:
        log.listener = before


def complaint() -> str:
    """What TensorRT complained about since the last call, in one line. Where it lacks CUDA, it but warns of that."""
    log = logger()
    errors = log.errors or log.warning
    log.errors, log.warning = [], []
    return "; ".join(" ".join(error.split()) for error in errors[:3]) or "no reason given"


# GPU memory

# CUDA's error 2 is cudaErrorMemoryAllocation.
OUT_OF_MEMORY = ("out of memory", "outofmemory", "alloc_failed", "cuda initialization failure with error: 2.")


def is_out_of_memory(message: str) -> bool:
    return any(words in message.lower() for words in OUT_OF_MEMORY)


def check_memory(wanted: int, what: str, hint: str = CLOSE) -> None:
    """Raises InputError where the GPU has less than `wanted` bytes free."""
    free, total = cuda().mem_get_info()
    if wanted > free:
        raise InputError(f"out of GPU memory: {what} need {wanted >> 20} MiB, free are {free >> 20} of {total >> 20} MiB", hint)


@contextmanager
def telling_of_memory(doing: str, hint: str = CLOSE) -> Iterator[None]:
    """Whatever fails meanwhile for want of GPU memory raises InputError; all else is raised as it is."""
    complaint()
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        if not is_out_of_memory(f"{e} {complaint()}"):
            raise
        raise InputError(f"out of GPU memory while {doing}", hint) from e
