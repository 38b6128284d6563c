"""PyTorch state dicts, safetensors files and Hugging Face folders."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers.checkpoints.assembly import assemble, listed
from helpers.checkpoints.folder import find_file
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes, write_json
from helpers.weights import BertWeights

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model"),
)
SAFETENSORS_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a state dict (flat, or nested under `model` or `state_dict`), a safetensors file, the index of several files of
    either kind, or a folder with one of these.

    Raises:
        InputError: the file is missing, damaged, of another format, or would run code when it is read; PyTorch is needed
            and missing; a tensor is missing or has another shape than `config` asks for.
    """
    path = find_file(path)
    return from_names(read_index(path) if path.suffix == ".json" else read_file(path), config, path)


def save(folder: Path, weights: BertWeights, config: BertConfig, tokenizer: Path) -> None:
    """Fills a folder as Hugging Face does: float16 weights, float32 ranges, configuration and a copy of the tokenizer.

    Args:
        tokenizer: one file of it, or a folder that has them.
    """
    import safetensors.numpy

    tensors = {config.family.tensor_name(name, config): array.astype(np.float16) for name, array in weights.tensors().items()}
    ranges = {f"{name}._amax": np.float32(amax).reshape(1) for name, amax in weights.ranges.items()}
    write_bytes(folder / "model.safetensors", safetensors.numpy.save({**tensors, **ranges}))
    save_config(folder, config, tokenizer)


def save_config(folder: Path, config: BertConfig, tokenizer: Path) -> None:
    """Writes what stands beside the weights in a checkpoint's folder: the configuration and a copy of the tokenizer."""
    write_json(folder / "config.json", config.to_dict())
    for file in sorted(tokenizer.iterdir()) if tokenizer.is_dir() else [tokenizer]:
        if file.name in TOKENIZER_FILES:
            write_bytes(folder / file.name, file.read_bytes())


def from_names(tensors: Mapping[str, np.ndarray], config: BertConfig, path: Path) -> BertWeights:
    """BertWeights from arrays under the file's names, which are Hugging Face's or an older spelling of them."""
    spelling = {canonical(name): name for name in tensors}
    named = {name: tensors[spelled] for name, spelled in spelling.items()}
    prefix = "module." if any(name.startswith("module.") for name in tensors) else ""
    old = any(name.endswith(("LayerNorm.gamma", "LayerNorm.beta")) for name in tensors)

    def spelled(name: str) -> str:
        if name in spelling:
            return spelling[name]
        if old:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return prefix + name

    return assemble(named, config, path, tensors, spelled, read_ranges(tensors, path))


def canonical(name: str) -> str:
    """Today's Hugging Face name, given an older spelling (gamma, beta) or a wrapped model's (module.)."""
    name = re.sub(r"^module\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(r"matmul_([qkva])_input", lambda m: {"q": "qv_a", "k": "qv_b", "v": "av_b", "a": "av_a"}[m[1]] + "_input", name)


def read_ranges(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, float]:
    """The activation ranges among a file's tensors: quantizer name, without `._amax`, → absolute maximum.

    Ranges of weights are left out: TensorRT derives a scale for each output channel itself.
    """
    ranges = {}
    for name, array in tensors.items():
        quantizer = canonical(name)[: -len("._amax")]
        if not name.endswith("._amax") or quantizer.endswith("_weight_quantizer"):
            continue
        if np.size(array) != 1 or not np.isfinite(array).all() or np.min(array) <= 0:
            raise InputError(f"{path}: range {name} must be one positive number, found shape {list(np.shape(array))}: {array}")
        ranges[quantizer] = float(np.reshape(array, ()))
    return ranges


def read_index(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of the files that an index names, which lie beside it."""
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(os.path.basename(name) == name for name in names)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as e:
        raise InputError(f"{path} is not a whole index of a checkpoint's files", "fetch it again, or name the checkpoint") from e
    if not plain:
        raise InputError(f"{path} names files outside of its folder", "fetch it again")
    missing = [ascii(name)[1:-1][:60] for name in names if not os.path.isfile(path.parent / name)]
    if missing:
        raise InputError(f"{path} names {len(missing)} files that are not beside it: {listed(missing)}", "fetch them too")
    return {name: array for part in names for name, array in read_file(path.parent / part).items()}


def read_file(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of one file: those of safetensors, and where possible of PyTorch, lie in it and are not copied."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as e:
        raise InputError(f"checkpoint {path} cannot be read: {e.strerror}") from e
    # A safetensors file begins with its header's length in 8 bytes, then the header, which is JSON.
    return read_safetensors(path) if head[8:9] == b"{" else read_state_dict(path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of a safetensors file, mapped; bfloat16, which NumPy lacks, widened to float32."""
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="numpy"):  # checks the header: all lies within the file
            pass
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header: dict[str, dict[str, Any]] = json.loads(data[8:start].tobytes())
    except (safetensors.SafetensorError, OSError, ValueError) as e:
        raise InputError(f"{path} is not a whole safetensors file: {e}") from e
    shared = header.pop("__metadata__", {})
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[start + begin : start + end]
        if entry["dtype"] == "BF16":
            wide = raw.view(np.uint16).astype(np.uint32)
            wide <<= 16
            flat = wide.view(np.float32)
        elif entry["dtype"] in SAFETENSORS_DTYPES:
            flat = np.require(raw.view(SAFETENSORS_DTYPES[entry["dtype"]]), requirements="A")
        else:
            continue
        tensors[name] = flat.reshape(entry["shape"])
    # Tensors that share their numbers are stored once: safetensors' save_model notes the other names.
    return {**{name: tensors[other] for name, other in shared.items() if other in tensors}, **tensors}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of a file that torch.save wrote, read without running any code that it holds."""
    try:
        import torch
    except ImportError as e:
        raise InputError(f"reading {path} needs PyTorch: pip install -r requirements-convert.txt ({e})") from e
    numpys = (torch.float16, torch.float32, torch.float64)
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_mappable(path))
        for key in ("model", "state_dict"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        if not isinstance(state, dict):
            raise InputError(f"{path} holds a {type(state).__name__}, not a state dict (name → tensor)")
        return {
            name: (tensor if tensor.dtype in numpys else tensor.float()).detach().numpy()
            for name, tensor in state.items()
            if isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            if tensor.layout is torch.strided and not tensor.is_meta
        }
    except InputError:
        raise
    except Exception as e:  # torch raises many kinds for a damaged file: pickle's, zip's, its own
        raise InputError(f"{path} is not a PyTorch state dict that can be read safely: {reason(e)}") from e


def is_mappable(path: Path) -> bool:
    """Whether what torch.save wrote is a zip file with its numbers as they are, not compressed by whoever packed it again."""
    try:
        with zipfile.ZipFile(path) as file:
            return all(part.compress_type == zipfile.ZIP_STORED for part in file.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False


def reason(error: Exception) -> str:
    """One line of what torch.load raised, without its advice to load the file unsafely."""
    text = str(error)
    refused = re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", text)
    if refused:
        return f"it asks for {refused[1]}, which no state dict needs"
    lines = [line.strip() for line in text.split("WeightsUnpickler error:")[-1].splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
