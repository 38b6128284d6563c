"""BuildRequest: all that an engine is built from and for."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers import checkpoints
from helpers.checkpoints.folder import FOLDER_FILES, TOKENIZER_FILES
from helpers.config import CONFIG_NAMES, QUESTION_ANSWERING
from helpers.engine_file import Description, description_path
from helpers.errors import InputError
from helpers.layouts import Profile

READ = (*CONFIG_NAMES, *FOLDER_FILES, *TOKENIZER_FILES)  # of a checkpoint's folder


@dataclass(frozen=True)
class Calibration:
    """Text that int8's ranges are found on, where the checkpoint has none.

    Args:
        squad_json: a SQuAD file.
        windows: how many of its windows are run.
        cache: a file that keeps the ranges.
    """

    squad_json: Path = Path("squad/dev-v1.1.json")
    windows: int = 100
    cache: Path | None = None


@dataclass(frozen=True)
class BuildRequest:
    """What an engine is built from and for.

    Args:
        source: the format of the checkpoint, a key of checkpoints.LOADERS.
        checkpoint: the file, folder or prefix of it.
        config_dir: the configuration's folder; None for the checkpoint's own, where the format has one.
        vocab_file: of the tokenizer, or its folder; None for the configuration's.
        task: what the engine is for, one of config.TASKS.
        packed: sequences lie end to end instead of being padded to one length.
        interleaved: packed int8 in vectors of 32 channels.
        megatron: residuals are sums before their normalisation.
        strict: obey the precisions: no TF32 in float32.
        sparse: take kernels for 2:4 sparse weights.
        int8_attention, int8_skip_layer_norm: in int8, with int8 input and output.
        output_gemm: in int8, the second feed-forward projection stays out of it.
        calibration: for int8, where the checkpoint has no ranges.

    Raises:
        InputError: options that exclude each other.
    """

    source: str
    checkpoint: Path
    profiles: tuple[Profile, ...]
    config_dir: Path | None = None
    vocab_file: Path | None = None
    task: str = QUESTION_ANSWERING
    packed: bool = False
    interleaved: bool = False
    megatron: bool = False
    fp16: bool = False
    int8: bool = False
    int8_attention: bool = False
    int8_skip_layer_norm: bool = False
    output_gemm: bool = False
    strict: bool = False
    sparse: bool = False
    workspace_mib: int = 1200
    timing_cache: Path | None = None
    calibration: Calibration = Calibration()
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.interleaved and not (self.packed and self.int8):
            raise InputError("interleaved is a layout of packed int8", "add {int8} {fp16}")
        if self.megatron and not (self.interleaved and self.source == "pickle"):
            raise InputError(
                "Megatron residuals exist in interleaved int8 alone, of a pickle", "add {pickle} {interleaved} {int8} {fp16}"
            )

    @property
    def longest(self) -> int:
        return max(profile.sequence_length for profile in self.profiles)

    @property
    def folder(self) -> Path:
        """The configuration's folder. Raises InputError where none is given and the checkpoint has none."""
        folder = self.config_dir or checkpoints.folder_of(self.source, self.checkpoint)
        if folder is None:
            raise InputError("the configuration's folder is required", "name it with {config_dir}")
        return folder

    @property
    def vocabulary(self) -> Path:
        """Where the tokenizer is read: a file of it, or the folder that has them."""
        return self.vocab_file or self.folder

    def inputs(self) -> Iterator[Path]:
        """The files that are read, or may be: those of a checkpoint that are not read this time are as dear."""
        return named(self.to_dict())

    def outputs(self) -> Iterator[Path]:
        """The files that are written besides the engine."""
        yield from filter(None, (self.timing_cache, self.calibration.cache))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: paths as text, absolute."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: plain(each) for name, each in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(each) for each in value]
            return str(value.resolve()) if isinstance(value, Path) else value

        return {name: plain(value) for name, value in asdict(self).items()}


def of_engine(engine: Path, description: Description | None) -> Iterator[Path]:
    """An engine's files, and those that it was built from as far as its description names them: what outputs must not replace."""
    yield from (engine, description_path(engine))
    if description:
        yield from named(description.request)


def named(request: Mapping[str, Any]) -> Iterator[Path]:
    """The files that an engine is, or was, built from, by what its description has of the request: all of the model's.

    Those that are not where they were are named too. Anything may stand in a description; what is no path is passed over.
    """
    calibration = request.get("calibration")
    texts = calibration.get("squad_json") if isinstance(calibration, dict) else None
    for path in (request.get(name) for name in ("checkpoint", "config_dir", "vocab_file")):
        if isinstance(path, str) and "\0" not in path:
            yield from of_model(Path(path))
    if isinstance(texts, str) and "\0" not in texts:
        yield Path(texts)


def of_model(path: Path) -> Iterator[Path]:
    """A file, folder or prefix of a model, and what stands beside it that belongs to a model."""
    yield path
    folder = path if path.is_dir() else path.parent
    yield from (folder / name for name in READ)
    yield from (file for ending in checkpoints.WEIGHTS for file in folder.glob(f"*{ending}"))
    # What TensorFlow's prefix stands for, and where ONNX files keep what is large.
    yield from (
        file for ending in (".index", ".meta", ".data*", "_data") for file in folder.glob(glob.escape(path.name) + ending)
    )
