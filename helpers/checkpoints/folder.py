"""Which file of a folder is the checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.checkpoints.contents import GGUF, KERAS, ONNX, Kind
from helpers.errors import InputError, listed

FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model"),
)
OTHER_NAMES = ((".safetensors",), (".bin", ".pt"))  # of a file that is the only one of its kind
TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)")  # as transformers.Trainer leaves it
# What else may stand there: by its name, what it is and what to do.
OTHERS = {
    r"adapter_(model\.(safetensors|bin)|config\.json)": Kind(
        "is an adapter (LoRA), which changes a model and is none",
        "merge the two with peft's merge_and_unload() and save the result",
    ),
    r".*-\d{5}-of-(?!00001\.)\d{5}\.(safetensors|bin)": Kind(
        "is one part of a checkpoint",
        "give the folder that has all parts and their index, *.index.json",
    ),
    r".*\.h5": KERAS,
    r".*\.msgpack": Kind(
        "holds Flax weights",
        "transformers below 5 converts them: from_pretrained(folder, from_flax=True).save_pretrained(other)",
    ),
    r".*\.gguf": GGUF,
    r".*\.onnx": ONNX,
    r".*(\.ckpt(-\d+)?\.index|\.data-\d{5}-of-\d{5})": Kind(
        "is a part of a TensorFlow checkpoint", "give its prefix with {ckpt}"
    ),
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
    own = [file for file in files if not other_kind(file) and not TRAINING_STATE.fullmatch(file.name)]
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


def other_kind(file: Path) -> Kind | None:
    """What a file of another format is, and what to do."""
    return next((told for name, told in OTHERS.items() if re.fullmatch(name, file.name)), None)


def refuse_others(file: Path) -> None:
    kind = other_kind(file)
    if kind:
        raise InputError(f"{file} {kind.told}", kind.hint)
