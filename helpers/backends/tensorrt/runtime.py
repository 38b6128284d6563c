"""TensorRT itself: whether it can be used here, its log, its plugin library, and what differs between versions.

Written for TensorRT 8.5.1 to 8.6.x.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from helpers.errors import InputError

SUPPORTED = ((8, 5), (9, 0))  # from, up to but without


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
            self.listener: Callable[[str], None] = lambda message: None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            self.listener(message)
            if self.verbose:
                print(f"[TensorRT {severity.name.lower()}] {message}", flush=True)

    log = Log()
    trt.init_libnvinfer_plugins(log, "")
    return log


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
    """What TensorRT complained about since the last call, in one line."""
    errors, logger().errors = logger().errors, []
    return "; ".join(" ".join(error.split()) for error in errors[:3]) or "no reason given"


def is_out_of_memory(message: str) -> bool:
    return "out of memory" in message.lower() or "OutOfMemory" in message
