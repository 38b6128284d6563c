"""From the network to a TensorRT plan: settings, optimization profiles, timing cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, NoReturn

from helpers.backends.base import Compiled, Network
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.network import InterleavedGraph, PackedGraph, PaddedGraph
from helpers.errors import InputError
from helpers.files import write_bytes
from helpers.layouts import Padded, Profile
from helpers.precision import FLOAT16
from helpers.progress import Progress
from helpers.request import BuildRequest

# TensorRT's own default is 3, which takes longer and makes no faster engine (docs/benchmarks.md); tests build with 0.
OPTIMIZATION_LEVEL = 2
MIB = 1 << 20
SPARSE = "(Sparsity) TRT inference plan picked sparse implementation for layers:"


def compile_network(network: Network, request: BuildRequest, progress: Progress) -> Compiled:
    """A TensorRT engine with one optimization profile for each (batch size, sequence length).

    The request has passed the plugins' check: on others a plugin may abort the process.

    Raises:
        InputError: the GPU's memory or the workspace does not suffice, or a plugin is missing.
        RuntimeError: TensorRT failed; the message is TensorRT's.
    """
    trt, log = runtime.load(), runtime.logger()
    runtime.cuda()
    log.verbose = request.verbose
    builder = trt.Builder(log)
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    kind = InterleavedGraph if request.interleaved else PackedGraph if request.packed else PaddedGraph
    graph = kind(definition, network)
    network.add_to(graph)

    settings = builder.create_builder_config()
    runtime.set_optimization_level(settings, OPTIMIZATION_LEVEL)
    runtime.share_profiles(settings)
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib * MIB)
    if network.precision.base == FLOAT16:
        settings.set_flag(trt.BuilderFlag.FP16)
    if network.precision.eight_bit:
        settings.set_flag(trt.BuilderFlag.INT8)
    if request.sparse:
        settings.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if request.strict:
        settings.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        settings.clear_flag(trt.BuilderFlag.TF32)
    else:
        settings.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    if request.verbose:
        settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for wanted in request.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in profile_shapes(wanted, request.packed).items():
            profile.set_shape(name, min=least, opt=best, max=most)
        settings.add_optimization_profile(profile)

    if request.timing_cache:
        read_timing_cache(settings, request.timing_cache, progress.warn)
    sparse: set[str] = set()

    def listen(message: str) -> None:
        if message.startswith(SPARSE):
            sparse.update(graph.projections.intersection(re.split(r"[,+\s]+", message[len(SPARSE) :])))

    with runtime.listening(listen):
        plan = builder.build_serialized_network(definition, settings)
    if plan is None:
        refuse(request, runtime.complaint())
    if request.timing_cache:
        write_bytes(request.timing_cache, bytes(settings.get_timing_cache().serialize()))
    if request.sparse:
        progress.say(f"TensorRT chose sparse kernels for {len(sparse)} layers")
    return Compiled(bytes(plan), len(sparse))


def refuse(request: BuildRequest, reason: str) -> NoReturn:
    """Raises what TensorRT's complaint means."""
    scratch = re.search(r"requires (\d+) bytes of scratch space", reason)
    if scratch:
        raise InputError(
            f"a workspace of {request.workspace_mib} MiB is too small for these sizes, which need "
            f"{-(-int(scratch[1]) // MIB)} MiB in one layer alone",
            "raise {workspace_mib}, or lower {batch_size}",
        )
    if runtime.is_out_of_memory(reason):
        largest = max(request.profiles, key=lambda p: p.tokens)
        raise InputError(
            f"out of GPU memory while building for batch size {largest.batch_size}, sequence length "
            f"{largest.sequence_length}, workspace {request.workspace_mib} MiB",
            "lower {batch_size} or {workspace_mib}",
        )
    raise RuntimeError(f"TensorRT cannot build this network: {reason}")


def profile_shapes(profile: Profile, packed: bool) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Each input's least, best and largest shape in an optimization profile."""
    size, length = profile
    if not packed:
        return {name: ((1, length), (size, length), (size, length)) for name in Padded.inputs}
    tokens = ((1,), (profile.tokens,), (profile.tokens,))
    return {
        "input_ids": tokens,
        "segment_ids": tokens,
        "cu_seqlens": ((2,), (size + 1,), (profile.packed_sequences + 1,)),
        "max_seqlen": ((1,), (length,), (length,)),
    }


def read_timing_cache(settings: Any, path: Path, warn: Callable[[str], None]) -> None:
    """Gives the builder the timing cache in a file, or an empty one where the file is missing or made elsewhere."""
    blob = path.read_bytes() if path.is_file() else b""
    empty = settings.create_timing_cache(b"")
    try:
        # A file that is no timing cache gives an empty one; one of another version or GPU is refused.
        cache = settings.create_timing_cache(blob)
        nothing = bytes(empty.serialize())
        read = blob in (b"", nothing) or bytes(cache.serialize()) != nothing
        usable = read and settings.set_timing_cache(cache, ignore_mismatch=False)
    except (AttributeError, RuntimeError):
        usable = False
    if not usable:
        name, _ = runtime.gpu()
        warn(
            f"timing cache {path} is not of TensorRT {runtime.load().__version__} on {name} "
            f"({runtime.complaint()}): ignored, and replaced after the build"
        )
        settings.set_timing_cache(empty, ignore_mismatch=False)
