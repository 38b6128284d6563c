"""What a file of weights is, by its first bytes, whatever its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from helpers.errors import InputError

HEAD = 4096  # bytes that are looked at


class Kind(NamedTuple):
    """What a file is, in words, and what to do where it is not wanted."""

    told: str
    hint: str = ""


SAFETENSORS = Kind("is a safetensors file", "give it with {pytorch}")
TORCH = Kind("is a file of torch.save", "give it with {pytorch}")
PICKLE = Kind("is a pickle", "give it with {pytorch}, or if it is Megatron's with {pickle}")
ONNX = Kind("is an ONNX file", "give it with {onnx}")
EMPTY = Kind("is empty", "fetch it again")
ZEROS = Kind("begins with nothing but zeros, as where writing it broke off", "fetch it again")
PAGE = Kind("is a web page or XML", "fetch the file itself")
POINTER = Kind("is a git-lfs pointer, which stands for a file that was not fetched", "git lfs pull")
JSON = Kind("is JSON", "fetch the file itself")
TEXT = Kind("is text", "fetch the file itself")
PACKED = Kind("is compressed or an archive", "unpack it")
ARRAYS = Kind("is an array or archive of NumPy's, which says nothing of its model", "save it as safetensors")
KERAS = Kind(
    "holds Keras weights", "transformers below 5 converts them: from_pretrained(folder, from_tf=True).save_pretrained(other)"
)
GGUF = Kind("is a GGUF file, which llama.cpp reads", "give the checkpoint that it was made from")
UNKNOWN = Kind("is of no format that is known here")

# What torch.save wrote before PyTorch 1.6, or writes if asked to, begins with this number, pickled.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# The first that fits a file's first bytes counts. A safetensors file begins with the length of its header, which is JSON,
# in 8 bytes; an ONNX file with field 1, the version of its format, and another one.
BEGINNINGS = (
    (rb"\Z", EMPTY),
    (rb"\0+\Z", ZEROS),
    (rb"version https?://\S*git-lfs", POINTER),
    (rb"\x93NUMPY", ARRAYS),
    (rb"\x89HDF\r\n", KERAS),
    (rb"GGUF", GGUF),
    (rb"PK\x03\x04.{26}[^/]+\.npy", ARRAYS),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|\x04\x22\x4d\x18|.{257}ustar", PACKED),
    (rb".{4}\0{4}\{", SAFETENSORS),
    (rb"PK", TORCH),
    (re.escape(LEGACY), TORCH),
    (rb"\x80[\x02-\x05]", PICKLE),
    (rb"\x08[\x01-\x40][\x12\x1a\"(2:Br]", ONNX),
    (rb"(\xef\xbb\xbf)?\s*<[?!a-zA-Z]", PAGE),
    (rb"(\xef\xbb\xbf)?\s*[{\[]", JSON),
    (rb"[\t\n\r\x20-\x7e\x80-\xf4]+\Z", TEXT),
)


def kind_of(path: Path, *wanted: Kind) -> Kind:
    """What a file is: one of `wanted`, the formats that are read where it stands.

    Raises:
        InputError: it is another one, or cannot be read.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"checkpoint {path} is a device or a pipe", "name a file")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as e:
        raise InputError(f"checkpoint {path} cannot be read: {e.strerror}") from e
    kind = next((kind for beginning, kind in BEGINNINGS if re.match(beginning, head, re.S)), UNKNOWN)
    if kind not in wanted:
        raise InputError(f"{path} {kind.told}", kind.hint)
    return kind
