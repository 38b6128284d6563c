"""PyTorch state dicts, safetensors files and Hugging Face folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helpers.checkpoints.assembly import assemble
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.files import write_bytes, write_json
from helpers.weights import BertWeights

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
SAFETENSORS_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def load(path: Path, config: BertConfig) -> BertWeights:
    """Reads a state dict (flat, or nested under `model` or `state_dict`), a safetensors file, or a folder with either.

    Raises:
        InputError: the file is missing, damaged, or would run code when it is read; PyTorch is needed and missing; a
            tensor is missing or has another shape than `config` asks for.
    """
    path = find_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as e:
        raise InputError(f"checkpoint {path} cannot be read: {e.strerror}") from e
    # A safetensors file begins with its header's length in 8 bytes, then the header, which is JSON.
    tensors = read_safetensors(path) if head[8:9] == b"{" else read_state_dict(path)
    return from_names(tensors, config, path)


def save(folder: Path, weights: BertWeights, config: BertConfig, vocab: Path) -> None:
    """Fills a folder as Hugging Face does: float16 weights, float32 ranges, configuration and a copy of the vocabulary."""
    import safetensors.numpy

    tensors = {config.family.tensor_name(name): array.astype(np.float16) for name, array in weights.tensors().items()}
    ranges = {f"{name}._amax": np.float32(amax).reshape(1) for name, amax in weights.ranges.items()}
    write_bytes(folder / "model.safetensors", safetensors.numpy.save({**tensors, **ranges}))
    save_config(folder, config, vocab)


def save_config(folder: Path, config: BertConfig, vocab: Path) -> None:
    """Writes what stands beside the weights in a checkpoint's folder: the configuration and a copy of the vocabulary."""
    write_json(folder / "config.json", config.to_dict())
    write_bytes(folder / "vocab.txt", vocab.read_bytes())


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


def find_file(path: Path) -> Path:
    """The checkpoint file that a path names: itself, or the one in a Hugging Face folder."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"checkpoint {path} does not exist")
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"no {' or '.join(FOLDER_FILES)} in folder {path}")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of a safetensors file; bfloat16, which NumPy lacks, widened to float32."""
    import safetensors

    tensors: dict[str, np.ndarray] = {}
    try:
        parts = safetensors.deserialize(path.read_bytes())
    except (safetensors.SafetensorError, OSError) as e:
        raise InputError(f"{path} is not a whole safetensors file: {e}") from e
    for name, part in parts:
        if part["dtype"] == "BF16":
            flat = (np.frombuffer(part["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif part["dtype"] in SAFETENSORS_DTYPES:
            flat = np.frombuffer(part["data"], SAFETENSORS_DTYPES[part["dtype"]])
        else:
            continue
        tensors[name] = flat.reshape(part["shape"])
    return tensors


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """All float tensors of a file that torch.save wrote, read without running any code that it holds."""
    try:
        import torch
    except ImportError as e:
        raise InputError(f"reading {path} needs PyTorch: pip install -r requirements-convert.txt ({e})") from e
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("model", "state_dict"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        if not isinstance(state, dict):
            raise InputError(f"{path} holds a {type(state).__name__}, not a state dict (name → tensor)")
        return {
            name: tensor.detach().float().numpy()
            for name, tensor in state.items()
            if isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            if tensor.layout is torch.strided and not tensor.is_meta
        }
    except InputError:
        raise
    except Exception as e:  # torch raises many kinds for a damaged file: pickle's, zip's, its own
        raise InputError(f"{path} is not a PyTorch state dict that can be read safely: {reason(e)}") from e


def reason(error: Exception) -> str:
    """One line of what torch.load raised, without its advice to load the file unsafely."""
    text = str(error)
    refused = re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", text)
    if refused:
        return f"it asks for {refused[1]}, which no state dict needs"
    lines = [line.strip() for line in text.split("WeightsUnpickler error:")[-1].splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
