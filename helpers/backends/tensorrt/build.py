"""From the network to a TensorRT plan: settings, optimization profiles, timing cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, NoReturn

from helpers.backends.base import Compiled, Network
from helpers.backends.tensorrt import runtime
from helpers.backends.tensorrt.network import InterleavedGraph, PackedGraph, PaddedGraph
from helpers.engine_file import digest
from helpers.errors import InputError
from helpers.files import write_bytes
from helpers.layouts import Padded, Profile
from helpers.precision import FLOAT16
from helpers.progress import Progress
from helpers.reading import LARGE, read_bytes
from helpers.request import BuildRequest

# TensorRT's own default is 3, which takes longer and makes no faster engine (docs/benchmarks.md); tests build with 0.
OPTIMIZATION_LEVEL = 2
MIB = 1 << 20
SPARSE = "(Sparsity) TRT inference plan picked sparse implementation for layers:"
SHORT = re.compile("insufficient memory|memory is insufficient")  # what TensorRT says of a kernel that it cannot try
CLOSE = "close what else uses the GPU"
MAGIC = 4  # bytes that every timing cache begins with
SEAL = re.compile(rb"\n(xxh3_128:[0-9a-f]{32})\n\Z")  # the digest behind a timing cache, which is not TensorRT's


def compile_network(network: Network, request: BuildRequest, progress: Progress) -> Compiled:
    """A TensorRT engine with one optimization profile for each (batch size, sequence length).

    The request has passed the plugins' check: on others a plugin may abort the process.

    Raises:
        InputError: the GPU's memory or the workspace does not suffice, or a plugin is missing.
        RuntimeError: TensorRT failed; the message is TensorRT's.
    """
    trt = runtime.load()
    runtime.cuda()
    runtime.logger().verbose = request.verbose
    with progress.at_once():
        builder = make_builder()
    definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    kind = InterleavedGraph if request.interleaved else PackedGraph if request.packed else PaddedGraph
    graph = kind(definition, network)
    # The builder wants all weights on the GPU, and some plugins abort where memory for theirs runs out.
    size = sum(array.size for array in network.weights.tensors().values()) * (2 if network.precision.base == FLOAT16 else 4)
    runtime.check_memory(size + runtime.RESERVE, "the network's weights and the kernels that TensorRT tries", CLOSE)
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
    untried = 0  # kernels, for want of memory

    def listen(message: str) -> None:
        nonlocal untried
        untried += bool(SHORT.search(message))
        if message.startswith(SPARSE):
            sparse.update(graph.projections.intersection(re.split(r"[,+\s]+", message[len(SPARSE) :])))

    runtime.complaint()
    with runtime.listening(listen), progress.at_once():
        plan = builder.build_serialized_network(definition, settings)
    if plan is None:
        refuse(request, runtime.complaint(), untried)
    if untried:
        progress.warn(f"TensorRT had too little GPU memory to try all kernels, and the engine may be slower: {CLOSE}")
    if request.timing_cache:
        write_timing_cache(request.timing_cache, settings, progress.warn)
    if request.sparse:
        progress.say(f"TensorRT chose sparse kernels for {len(sparse)} layers")
    return Compiled(bytes(plan), len(sparse))


def make_builder() -> Any:
    """TensorRT's builder. Raises InputError where there is no GPU memory for it."""
    with runtime.telling_of_memory("starting TensorRT's builder", CLOSE):
        return runtime.made("Builder")


def refuse(request: BuildRequest, reason: str, untried: int) -> NoReturn:
    """Raises what TensorRT's complaint means, where it had no memory to try so many kernels."""
    scratch = re.search(r"requires (\d+) bytes of scratch space", reason)
    if scratch:
        raise InputError(
            f"a workspace of {request.workspace_mib} MiB is too small for these sizes, which need "
            f"{-(-int(scratch[1]) // MIB)} MiB in one layer alone",
            "raise {workspace_mib}, or lower {batch_size}",
        )
    if untried or runtime.is_out_of_memory(reason):
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


# Timing caches
#
# A cache is as TensorRT serializes it, and behind that, where it is in nobody's way, its digest: of what is damaged
# TensorRT reads anything.


def check_timing_cache(path: Path) -> None:
    """Finds out before the work starts whether there is a file that the build must not replace.

    Raises:
        InputError: it is not a timing cache.
    """
    if path.is_file() and path.stat().st_size:
        builder = make_builder()
        read_timing_cache(builder.create_builder_config(), path, lambda text: None)


def read_timing_cache(settings: Any, path: Path, warn: Callable[[str], None]) -> None:
    """Gives the builder the timing cache in a file, or an empty one where it is missing, damaged or made elsewhere.

    Raises:
        InputError: the file is not a timing cache.
    """
    content = read_bytes(path, "timing cache", LARGE) if path.is_file() else b""
    seal = SEAL.search(content[-64:])
    blob = content[: -len(seal[0])] if seal else content
    empty = settings.create_timing_cache(b"")
    nothing = bytes(empty.serialize())
    if blob and blob[:MAGIC] != nothing[:MAGIC]:
        raise InputError(f"{path} is not a timing cache, and would be replaced", "name another file with {timing_cache}")
    why = ""
    if seal and seal[1].decode() != digest(blob):
        why = "is damaged"
    elif blob:
        why = unusable(settings, blob, nothing)
    if why:
        warn(f"timing cache {path} {why}: ignored, and replaced after the build")
    if why or not blob:
        settings.set_timing_cache(empty, ignore_mismatch=False)


def unusable(settings: Any, blob: bytes, nothing: bytes) -> str:
    """Gives the builder a timing cache; says what it is where that cannot be, of another version or GPU mostly."""
    runtime.complaint()
    try:
        # What TensorRT cannot read gives an empty cache.
        cache = settings.create_timing_cache(blob)
        if (blob == nothing or bytes(cache.serialize()) != nothing) and settings.set_timing_cache(cache, ignore_mismatch=False):
            return ""
    except (AttributeError, RuntimeError):
        pass
    name, _ = runtime.gpu()
    return f"is not of TensorRT {runtime.load().__version__} on {name} ({runtime.complaint()})"


def write_timing_cache(path: Path, settings: Any, warn: Callable[[str], None]) -> None:
    """Keeps what the builder measured; the engine is not lost where that cannot be."""
    blob = bytes(settings.get_timing_cache().serialize())
    try:
        write_bytes(path, blob, b"\n%s\n" % digest(blob).encode())
    except InputError as e:
        warn(str(e))
