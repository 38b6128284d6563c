"""What a file is by its first bytes: every format as its own tool writes it, and what a broken download leaves."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
from pathlib import Path
from typing import Callable, NamedTuple

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from helpers import checkpoints
from helpers.checkpoints import contents
from helpers.checkpoints.contents import Kind, kind_of
from helpers.commands.flags import FLAGS
from helpers.errors import InputError
from tests.checkpoint_files import ARRAYS, CONFIG, write_legacy_torch, write_safetensors, write_torch
from tests.models import write_onnx


def bytes_of(write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    def written(folder: Path) -> bytes:
        write(folder / "as")
        return (folder / "as").read_bytes()

    return written


def keras(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kernel"] = np.ones(3)


def tar(path: Path) -> None:
    (path.parent / "a").write_bytes(b"a")
    with tarfile.open(path, "w") as file:
        file.add(path.parent / "a", "model.bin")
    (path.parent / "a").unlink()


def archive(save: Callable[..., None], *arrays: object) -> bytes:
    file = io.BytesIO()
    save(file, *arrays)
    return file.getvalue()


class Sample(NamedTuple):
    """A file's content, or what makes it; what it is; which flags take it."""

    content: bytes | Callable[[Path], bytes]
    kind: Kind
    taken: tuple[str, ...] = ()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 437958648\n"
SAMPLES = {
    "safetensors": Sample(bytes_of(lambda path: write_safetensors(path, ARRAYS)), contents.SAFETENSORS, ("pytorch",)),
    "torch": Sample(bytes_of(lambda path: write_torch(path, ARRAYS)), contents.TORCH, ("pytorch", "pickle")),
    "legacy torch": Sample(bytes_of(lambda path: write_legacy_torch(path, ARRAYS)), contents.TORCH, ("pytorch", "pickle")),
    **{
        f"pickle {protocol}": Sample(pickle.dumps(ARRAYS, protocol), contents.PICKLE, ("pytorch", "pickle"))
        for protocol in range(2, 6)
    },
    "onnx": Sample(bytes_of(lambda path: write_onnx(path, ARRAYS)), contents.ONNX, ("onnx",)),
    "empty": Sample(b"", contents.EMPTY),
    "zeros": Sample(b"\0" * 1_000_000, contents.ZEROS),
    "a few zeros": Sample(b"\0" * 9, contents.ZEROS),
    "a page": Sample(b"<!DOCTYPE html>\n<html><body>Not found</body></html>", contents.PAGE),
    "a page after a mark and a line": Sample(b"\xef\xbb\xbf\r\n <html>", contents.PAGE),
    "XML": Sample(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', contents.PAGE),
    "a git-lfs pointer": Sample(POINTER, contents.POINTER),
    "JSON": Sample(b'{"error": "Repository not found"}', contents.JSON),
    "JSON as an array": Sample(b" [1, 2]", contents.JSON),
    "text": Sample("Erreur: dépôt introuvable\n".encode(), contents.TEXT),
    "gzip": Sample(gzip.compress(b"a"), contents.PACKED),
    "bzip2": Sample(bz2.compress(b"a"), contents.PACKED),
    "xz": Sample(lzma.compress(b"a"), contents.PACKED),
    "tar": Sample(bytes_of(tar), contents.PACKED),
    "an array": Sample(archive(np.save, np.ones(3)), contents.ARRAYS),
    "arrays": Sample(archive(np.savez, np.ones(3)), contents.ARRAYS),
    "Keras": Sample(bytes_of(keras), contents.KERAS),
    "GGUF": Sample(b"GGUF\x03\0\0\0" + bytes(16), contents.GGUF),
    "noise": Sample(bytes(range(200, 256)), contents.UNKNOWN),
}
EVERY = [value for value in vars(contents).values() if isinstance(value, Kind)]


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights"])
def test_what_a_file_is(sample: Sample, name: str, tmp_path: Path) -> None:
    """Whatever its name; loaders of other formats say so, and what to do."""
    content = sample.content if isinstance(sample.content, bytes) else sample.content(tmp_path)
    path = tmp_path / name
    path.write_bytes(content)
    assert kind_of(path, *EVERY) is sample.kind
    for source in ("pytorch", "pickle", "onnx"):
        if source in sample.taken:
            continue
        if sample.kind in (contents.TEXT, contents.UNKNOWN) and source != "pytorch":
            continue  # pickles of the oldest protocols, and fields of ONNX in another order, begin with anything
        with pytest.raises(InputError) as error:
            checkpoints.load(source, path, CONFIG)
        hint = InputError(f"{path} {sample.kind.told}", sample.kind.hint).told(FLAGS)
        assert error.value.told(FLAGS) == hint
        assert hint.isprintable()


def test_every_kind_has_a_sample() -> None:
    assert {sample.kind for sample in SAMPLES.values()} == set(EVERY)


@pytest.mark.parametrize("source", ["pytorch", "pickle", "onnx"])
def test_what_is_no_file(source: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(InputError, match=f"checkpoint {path} is a device or a pipe: name a file"):
            checkpoints.load(source, path, CONFIG)


def test_a_state_dict_that_was_pickled(tmp_path: Path) -> None:
    """By pickle itself, as Hugging Face names its tensors: -pt reads it too."""
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps({name: torch.from_numpy(array) for name, array in ARRAYS.items()}))
    found = checkpoints.load("pytorch", path, CONFIG).tensors()
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
