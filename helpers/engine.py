"""Engine files: build, save, describe and recognise them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable

from helpers import trt as tensorrt_
from helpers.bert import bert_qa
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes, write_json
from helpers.graphs import Int8
from helpers.sessions import Session
from helpers.sessions.layouts import Padded, Profile
from helpers.transforms import pad_heads
from helpers.weights import BertWeights

# TensorRT's own default is 3, which takes longer and makes no faster engine (docs/benchmarks.md); tests build with 0.
OPTIMIZATION_LEVEL = 2

# What NVIDIA's BERT plugins have fast kernels for (docs/design.md).
FUSED_HEAD_SIZE = 64
FUSED_LENGTHS = (64, 96, 128, 384)  # padded attention in float16; other lengths are computed unfused
FUSED_LENGTHS_INT8 = (128, 384)  # padded attention in int8, which has no other way
PACKED_LONGEST = 384
# There are fused kernels for 512 as well, but the embedding plugin makes no mask that they can read: the logits are
# wrong (measured in docs/benchmarks.md; https://github.com/NVIDIA/TensorRT/issues/2948).
BROKEN_LENGTH = 512
INT8_HIDDEN_SIZES = (768, 1024)  # skip-layernorm in int8
# The least compute capability of each.
INT8_ATTENTION_CAPABILITY = (7, 5)  # padded; the packed plugin's own begins with PACKED_CAPABILITY
INT8_NORM_CAPABILITY = PACKED_CAPABILITY = (7, 2)

BACKENDS = ("auto", "tensorrt", "onnxruntime")
MIB = 1 << 20


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for."""

    profiles: Sequence[Profile]
    packed: bool = False
    interleaved: bool = False  # packed int8 in vectors of 32 channels
    megatron: bool = False  # residuals are sums before their normalisation
    fp16: bool = False
    int8: Int8 | None = None
    strict: bool = False
    sparse: bool = False
    workspace_mib: int = 1200
    timing_cache: Path | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Description:
    """What stands beside an engine, in `<engine>.json`."""

    backend: str
    version: str  # of TensorRT, or of the ONNX operator set
    gpu: str | None
    compute_capability: str | None
    precision: str
    packed: bool
    profiles: list[list[int]]  # (batch size, sequence length) each
    checkpoint: str
    vocab_file: str
    vocab_size: int  # rows of the word embedding
    lower_case: bool
    sparse_layers: int = 0  # layers that run a 2:4 sparse kernel
    size: int = 0  # of the engine file, bytes


def choose_backend(name: str) -> str:
    """Turns `auto` into a backend; for one asked for by name, raises InputError that says what it lacks here."""
    if name == "tensorrt":
        tensorrt_.check_available()
    if name != "auto":
        return name
    try:
        tensorrt_.check_available()
        return "tensorrt"
    except InputError:
        return "onnxruntime"


# ---- building


def build(weights: BertWeights, config: BertConfig, backend: str, options: BuildOptions, warn: Callable[[str], None]) -> bytes:
    """The engine, serialized.

    Args:
        weights: as `fit` gives them.

    Raises:
        InputError: the GPU's memory does not suffice, or a plugin is missing.
        RuntimeError: TensorRT failed; the message is TensorRT's.
    """
    if backend == "onnxruntime":
        return build_onnx(weights, config, options)
    return build_tensorrt(weights, config, options, warn)


def fit(weights: BertWeights, config: BertConfig, backend: str, reduced: bool) -> BertWeights:
    """The weights in the shape that a backend's kernels want; TensorRT has fused ones where precision is reduced."""
    if backend == "tensorrt" and reduced:
        return pad_heads(weights, config.num_attention_heads, FUSED_HEAD_SIZE)
    return weights


def build_onnx(weights: BertWeights, config: BertConfig, options: BuildOptions) -> bytes:
    """An ONNX model, which is ONNX Runtime's engine."""
    from helpers.graphs.onnx import PackedOnnxGraph, PaddedOnnxGraph

    heads = config.num_attention_heads
    kind = PackedOnnxGraph if options.packed else PaddedOnnxGraph
    graph = kind(heads, weights.head_size(heads), config.layer_norm_eps, options.int8, options.megatron)
    bert_qa(graph, weights)
    return graph.model({"profiles": json.dumps(options.profiles), "vocab_size": str(config.vocab_size)})


def build_tensorrt(weights: BertWeights, config: BertConfig, options: BuildOptions, warn: Callable[[str], None]) -> bytes:
    """A TensorRT engine with one optimization profile for each (batch size, sequence length).

    The options have passed `check_kernels`: on others a plugin may abort the process.
    """
    from helpers.graphs.tensorrt import InterleavedGraph, PackedGraph, PaddedGraph

    trt, log = tensorrt_.load(), tensorrt_.logger()
    tensorrt_.cuda()
    log.verbose, log.sparse_layers = options.verbose, 0
    heads = config.num_attention_heads
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    kind = InterleavedGraph if options.interleaved else PackedGraph if options.packed else PaddedGraph
    graph = kind(network, heads, weights.head_size(heads), options.fp16, options.int8, options.megatron)
    bert_qa(graph, weights)

    settings = builder.create_builder_config()
    tensorrt_.set_optimization_level(settings, OPTIMIZATION_LEVEL)
    tensorrt_.share_profiles(settings)
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.fp16:
        settings.set_flag(trt.BuilderFlag.FP16)
    if options.int8:
        settings.set_flag(trt.BuilderFlag.INT8)
    if options.sparse:
        settings.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.strict:
        settings.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        settings.clear_flag(trt.BuilderFlag.TF32)
    else:
        settings.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    if options.verbose:
        settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for wanted in options.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in profile_shapes(wanted, options.packed).items():
            profile.set_shape(name, min=least, opt=best, max=most)
        settings.add_optimization_profile(profile)

    if options.timing_cache:
        read_timing_cache(settings, options.timing_cache, warn)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        reason = tensorrt_.complaint()
        scratch = re.search(r"requires (\d+) bytes of scratch space", reason)
        if scratch:
            raise InputError(
                f"a workspace of {options.workspace_mib} MiB is too small for these sizes, which need "
                f"{-(-int(scratch[1]) // MIB)} MiB in one layer alone: raise -w, or lower -b"
            )
        if tensorrt_.is_out_of_memory(reason):
            largest = max(options.profiles, key=lambda p: p.tokens)
            raise InputError(
                f"out of GPU memory while building for batch size {largest.batch_size}, sequence length "
                f"{largest.sequence_length}, workspace {options.workspace_mib} MiB: lower -b or -w"
            )
        raise RuntimeError(f"TensorRT cannot build this network: {reason}")
    if options.timing_cache:
        write_bytes(options.timing_cache, bytes(settings.get_timing_cache().serialize()))
    return bytes(plan)


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


def check_kernels(options: BuildOptions, config: BertConfig, weights: BertWeights, warn: Callable[[str], None]) -> None:
    """Refuses what the plugins would abort on, and warns of what they do slowly.

    Args:
        weights: as `fit` gives them.

    Raises:
        InputError: a size, precision or GPU that a plugin has no kernel for and no slower way around.
    """
    name, capability = tensorrt_.gpu()
    hidden_size, head_size = config.hidden_size, weights.head_size(config.num_attention_heads)
    lengths = sorted({profile.sequence_length for profile in options.profiles})
    int8_attention = options.int8 is not None and options.int8.attention
    int8_norm = options.int8 is not None and options.int8.skip_layer_norm

    def need(available: bool, problem: str) -> None:
        if not available:
            raise InputError(problem)

    if options.packed:
        need(options.fp16, "packed engines need float16 on TensorRT: add --fp16")
        need(capability >= PACKED_CAPABILITY, f"packed engines need compute capability 7.2, {name} has less: use builder.py")
        need(head_size == FUSED_HEAD_SIZE, f"packed engines need heads of at most 64, not {head_size}: use builder.py")
        need(
            lengths[-1] <= PACKED_LONGEST,
            f"packed engines on TensorRT take sequences of up to {PACKED_LONGEST} tokens, not {lengths[-1]}: lower -s",
        )
    elif int8_attention:
        supported = capability >= INT8_ATTENTION_CAPABILITY
        need(supported, f"int8 attention (-imh) needs compute capability 7.5, {name} has less: leave it out")
        need(head_size == FUSED_HEAD_SIZE, f"int8 attention needs heads of at most 64, not {head_size}: leave out -imh")
    if int8_norm:
        supported = capability >= INT8_NORM_CAPABILITY
        need(supported, f"int8 skip-layernorm (-iln) needs compute capability 7.2, {name} has less: leave it out")
        need(
            hidden_size in INT8_HIDDEN_SIZES,
            f"int8 skip-layernorm has kernels for hidden sizes 768 and 1024, not {hidden_size}: build a padded engine "
            "without -iln, or widen the checkpoint with scripts/widen_checkpoint.py",
        )
    if options.packed:
        return
    need(
        BROKEN_LENGTH not in lengths or not (options.fp16 or int8_attention),
        "NVIDIA's attention plugin gives wrong logits at sequence length 512 in float16 and int8: use 384, or 511 (slower)",
    )

    fused = FUSED_LENGTHS_INT8 if int8_attention else FUSED_LENGTHS
    slow = [length for length in lengths if length not in fused]
    listed, known = ", ".join(map(str, slow)), ", ".join(map(str, fused))
    if int8_attention:
        need(not slow, f"int8 attention (-imh) has no kernel for sequence length {listed}: use {known}, or leave it out")
    elif options.fp16 and head_size != FUSED_HEAD_SIZE:
        warn(f"fused attention has no kernel for heads of {head_size}, only up to {FUSED_HEAD_SIZE}: this engine is slower")
    elif options.fp16 and slow:
        warn(f"fused attention has no kernel for sequence length {listed}, which is slower; fast are {known}")


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
        name, _ = tensorrt_.gpu()
        warn(
            f"timing cache {path} is not of TensorRT {tensorrt_.load().__version__} on {name} "
            f"({tensorrt_.complaint()}): ignored, and replaced after the build"
        )
        settings.set_timing_cache(empty, ignore_mismatch=False)


# ---- files


def new_description(
    backend: str, options: BuildOptions, checkpoint: Path, vocab_file: Path, vocab_size: int, lower_case: bool
) -> Description:
    """Describes an engine built here, just now, with `options`."""
    if backend == "tensorrt":
        gpu, capability = tensorrt_.gpu()
        version, capability_text = tensorrt_.load().__version__, ".".join(map(str, capability))
        precision = "int8" if options.int8 else "float16" if options.fp16 else "float32"
    else:
        from helpers.graphs.onnx import OPSET

        gpu, capability_text, version = None, None, f"opset {OPSET}"
        precision = "int8" if options.int8 else "float32"
    return Description(
        backend=backend,
        version=version,
        gpu=gpu,
        compute_capability=capability_text,
        precision=precision,
        packed=options.packed,
        profiles=[list(profile) for profile in options.profiles],
        checkpoint=str(checkpoint.resolve()),
        vocab_file=str(vocab_file.resolve()),
        vocab_size=vocab_size,
        lower_case=lower_case,
        sparse_layers=tensorrt_.logger().sparse_layers if backend == "tensorrt" else 0,
    )


def description_path(engine: Path) -> Path:
    return Path(f"{engine}.json")


def save(engine: Path, blob: bytes, description: Description) -> None:
    """Writes an engine and its description, each whole or not at all; an older description never meets a newer engine."""
    description_path(engine).unlink(missing_ok=True)
    write_bytes(engine, blob)
    write_json(description_path(engine), asdict(replace(description, size=len(blob))))


def describe(engine: Path) -> Description | None:
    """The description beside an engine, or None where there is none.

    Raises:
        InputError: the description is malformed, or the engine is not the file that it describes.
    """
    path = description_path(engine)
    if not path.exists():
        return None
    try:
        description = Description(**json.loads(path.read_text(encoding="utf-8")))
        kinds = (description.vocab_file, str), (description.vocab_size, int), (description.lower_case, bool)
        if any(type(value) is not kind for value, kind in kinds):
            raise ValueError("vocab_file, vocab_size or lower_case is of the wrong kind")
        if not description.profiles or any(size < 1 or length < 1 for size, length in description.profiles):
            raise ValueError("its profiles must be pairs of positive numbers")
    except (OSError, ValueError, TypeError) as e:
        raise InputError(f"{path} does not describe an engine ({e}): remove it and give -s, -v and -b yourself") from e
    if engine.is_file() and engine.stat().st_size != description.size:
        raise InputError(
            f"engine {engine} has {engine.stat().st_size} bytes, but {path.name} says {description.size}: "
            "it is truncated or was replaced; build it again"
        )
    return description


def recognise(engine: Path) -> str:
    """The backend that a file is an engine of, by its content. Raises InputError where it is none."""
    try:
        with open(engine, "rb") as file:
            head = file.read(4)
    except OSError as e:
        raise InputError(f"engine {engine} cannot be read: {e.strerror}; build one with builder.py") from e
    if head in (b"ftrt", b"ptrt"):
        return "tensorrt"
    if head[:1] == b"\x08":  # an ONNX model begins with field 1, its IR version
        return "onnxruntime"
    raise InputError(f"{engine} is not an engine: it is neither a TensorRT plan nor an ONNX model")


def open_session(engine: Path, backend: str, description: Description | None) -> Session:
    """Loads an engine.

    Raises:
        InputError: the file is not an engine, is one for another backend, TensorRT version or GPU than here, or does
            not fit the GPU's memory.
    """
    kind = recognise(engine)
    if backend not in ("auto", kind):
        raise InputError(f"{engine} is an engine of {kind}, not of {backend}: build one with builder.py --backend {backend}")
    if kind == "onnxruntime":
        from helpers.sessions.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(engine)
    try:
        tensorrt_.check_available()
    except InputError as e:
        raise InputError(f"{engine} is a TensorRT engine, but {e}") from e
    if description:
        check_same_machine(engine, description)
    from helpers.sessions.tensorrt import TensorRTSession

    return TensorRTSession(engine)


def check_same_machine(engine: Path, description: Description) -> None:
    """Raises InputError where an engine was built by another TensorRT or for another GPU than are here."""
    version, (gpu, _) = tensorrt_.load().__version__, tensorrt_.gpu()
    if (description.version, description.gpu) != (version, gpu):
        raise InputError(
            f"engine {engine} was built by TensorRT {description.version} for {description.gpu}; "
            f"here are TensorRT {version} and {gpu}: build it again"
        )
