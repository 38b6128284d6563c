"""Which file of a folder is the checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.checkpoints.assembly import listed
from helpers.errors import InputError

FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
OTHER_NAMES = ((".safetensors",), (".bin", ".pt"))  # of a file that is the only one of its kind
TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)")  # as transformers.Trainer leaves it
# What else may stand there: by its name, what it is and what to do.
OTHERS = {
    r"adapter_(model\.(safetensors|bin)|config\.json)": (
        "is an adapter (LoRA), which changes a model and is none",
        "merge the two with peft's merge_and_unload() and save the result",
    ),
    r".*-\d{5}-of-(?!00001\.)\d{5}\.(safetensors|bin)": (
        "is one part of a checkpoint",
        "give the folder that has all parts and their index, *.index.json",
    ),
    r".*\.h5": (
        "holds Keras weights",
        "transformers below 5 converts them: from_pretrained(folder, from_tf=True).save_pretrained(other)",
    ),
    r".*\.msgpack": (
        "holds Flax weights",
        "transformers below 5 converts them: from_pretrained(folder, from_flax=True).save_pretrained(other)",
    ),
    r".*\.gguf": ("is a GGUF file, which llama.cpp reads", "give the checkpoint that it was made from"),
    r".*\.onnx": ("is an ONNX file", "give it with {onnx}"),
    r".*(\.ckpt(-\d+)?\.index|\.data-\d{5}-of-\d{5})": ("is a part of a TensorFlow checkpoint", "give its prefix with {ckpt}"),
}


def find_file(path: Path) -> Path:
    """The checkpoint file, or the index of several, that a path names: itself, or the one in a Hugging Face folder.

    Raises:
        InputError: there is none, or there are several, or it is of a format that is not read here.
    """
    if path.is_dir():
        return in_folder(path)
    if not path.exists():
        raise InputError(f"checkpoint {path} does not exist")
    refuse_others(path)
    return path


def in_folder(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    try:
        files = sorted(file for file in (*folder.iterdir(), *folder.glob("onnx/*.onnx")) if file.is_file())
    except OSError as e:
        raise InputError(f"folder {folder} cannot be read: {e.strerror}") from e
    own = [file for file in files if not kind_of(file) and not TRAINING_STATE.fullmatch(file.name)]
    for endings in OTHER_NAMES:
        found = [file for file in own if file.name.endswith(endings)]
        if len(found) > 1:
            names = [ascii(file.name)[1:-1] for file in found]
            raise InputError(f"folder {folder} has {len(found)} checkpoints: {listed(names)}", "name one with {pytorch}")
        if found:
            return found[0]
    for file in files:
        refuse_others(file)
    raise InputError(f"no {FOLDER_FILES[0]} or {FOLDER_FILES[2]} in folder {folder}")


def kind_of(file: Path) -> tuple[str, str] | None:
    """What a file of another format is, and what to do."""
    return next((told for name, told in OTHERS.items() if re.fullmatch(name, file.name)), None)


def refuse_others(file: Path) -> None:
    kind = kind_of(file)
    if kind:
        raise InputError(f"{file} {kind[0]}", kind[1])
