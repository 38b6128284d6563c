"""The tokenizer in a checkpoint's folder: tokenizer.json where there is one, else built from the files of its class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from tokenizers import AddedToken
from tokenizers import Tokenizer as Pipeline

from helpers.errors import InputError
from helpers.tokenization.tokenizer import Template, Tokenizer, reading

ROLES = ("cls", "sep", "pad", "unk", "mask", "bos", "eos")
GENERIC = ("", "PreTrainedTokenizer", "TokenizersBackend")  # classes that only read tokenizer.json
WHOLE = "tokenizer.json"


@dataclass(frozen=True)
class Kind:
    """A tokenizer class of Hugging Face's.

    Args:
        files: that it is built from, where there is no tokenizer.json.
        build: (files, settings of tokenizer_config.json, special tokens by role) → pipeline.
        special: the names of special tokens, by role, where no file tells others.
        separators: how many stand between two texts.
        passage_segment: the segment id of the second text.
    """

    name: str
    files: tuple[str, ...]
    build: Callable[[Sequence[Path], Mapping[str, Any], Mapping[str, str]], Pipeline]
    special: Mapping[str, str]
    separators: int = 1
    passage_segment: int = 1


def read(path: Path, kind: Kind, kinds: Mapping[str, Kind]) -> tuple[Tokenizer, Template]:
    """The tokenizer in a folder, or of a file with what stands beside it, and the windows that its model was trained with.

    Args:
        kind: the model family's, where tokenizer_config.json names no other one of `kinds`.

    Raises:
        InputError: nothing to read there, or it is damaged; a class that is not known and has no tokenizer.json.
    """
    folder = path if path.is_dir() else path.parent
    settings = read_settings(folder)
    name = settings.get("tokenizer_class") or ""
    name = name[:-4] if name.endswith("Fast") else name
    source = path if path.is_file() or not path.is_dir() else folder / WHOLE
    kind = kinds.get(name, kind)
    special = {**kind.special, **named_tokens(settings)}
    whole = source.suffix == ".json" and source.name not in kind.files
    if path.is_dir() and not source.is_file():
        whole = False
        if name not in kinds and name not in GENERIC:
            raise InputError(
                f"{folder}: the tokenizer class {name} is not supported", f"save it as {WHOLE}, or take another model"
            )
    if whole:
        pipeline = read_whole(source)
    else:
        files = find_files(path, folder, kind)
        with reading(", ".join(map(str, files))):
            pipeline = kind.build(files, settings, special)
            add_tokens(pipeline, settings, folder, special)
    control = {token for role, token in special.items() if role in ROLES}
    with reading(str(source)):
        tokenizer = Tokenizer(plain(pipeline, control), control)
    for role in ("cls", "sep"):
        if pipeline.token_to_id(special[role]) is None:
            raise InputError(f"tokenizer {source} lacks {special[role]}", "is it the model's own?")
    template = Template((special["cls"],), (special["sep"],) * kind.separators, (special["sep"],), kind.passage_segment)
    return tokenizer, template


def check_size(tokenizer: Tokenizer, rows: int, source: Path | str) -> None:
    """Raises InputError where an embedding has fewer rows than there are tokens; more are right, for training's sake."""
    if tokenizer.size > rows:
        raise InputError(
            f"tokenizer {source} has {tokenizer.size} tokens but the model's embedding {rows} rows",
            "give the one that the model was trained with ({vocab_file})",
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with special_tokens_map.json under it; nothing where there is neither."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings.update(read_object(folder / name))
    for name in (
        "do_lower_case",
        "strip_accents",
        "tokenize_chinese_chars",
        "keep_accents",
        "split_by_punct",
        "add_prefix_space",
    ):
        if not isinstance(settings.get(name), (bool, type(None))):
            raise InputError(
                f"{folder / 'tokenizer_config.json'}: {name} must be true, false or null, not {settings[name]!r:.60}"
            )
    if not isinstance(settings.get("tokenizer_class"), (str, type(None))):
        raise InputError(f"{folder / 'tokenizer_config.json'}: tokenizer_class must be a name")
    return settings


def read_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not JSON: {e}") from e
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold one JSON object, but holds a {type(values).__name__}")
    return values


def content(token: Any) -> str | None:
    """The text of a token, which files give bare or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role."""
    found = {role: content(settings.get(f"{role}_token")) for role in ROLES}
    return {role: token for role, token in found.items() if token}


def find_files(path: Path, folder: Path, kind: Kind) -> list[Path]:
    """The files that a kind is built from, the one that was named first among them."""
    files = [folder / name for name in kind.files]
    if not path.is_dir() and len(files) == 1:
        files = [path]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        wanted = " or ".join([WHOLE, *([", ".join(kind.files)] if kind.files else [])])
        where = folder if path.is_dir() or path.exists() else path
        raise InputError(f"no tokenizer at {where}: there is no {wanted}", "name it with {vocab_file}")
    return files


def read_whole(path: Path) -> Pipeline:
    """A tokenizer.json."""
    read_object(path)
    with reading(str(path)):
        return Pipeline.from_file(str(path))


def add_tokens(pipeline: Pipeline, settings: Mapping[str, Any], folder: Path, special: Mapping[str, str]) -> None:
    """Tokens that stand outside of the vocabulary, or that no text splits. Raises InputError where an id is taken already."""
    numbered: list[tuple[int, Any]] = []
    if (folder / "added_tokens.json").exists():
        numbered += [(i, token) for token, i in read_object(folder / "added_tokens.json").items()]
    decoder = settings.get("added_tokens_decoder") or {}
    numbered += [(int(i), token) for i, token in decoder.items()]
    further = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    further = list(further.values()) if isinstance(further, dict) else list(further)
    never = settings.get("never_split") or []
    for _, token in sorted(numbered, key=lambda each: each[0]):
        pipeline.add_tokens([added(token)])
    pipeline.add_tokens([added(token) for token in [*never, *further]])
    pipeline.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in special.values()
            if pipeline.token_to_id(token) is not None
        ]
    )
    for i, token in numbered:
        if pipeline.token_to_id(content(token) or "") != i:
            raise InputError(
                f"{folder}: the added token {content(token)!r} has the id {pipeline.token_to_id(content(token) or '')}, not {i}"
            )


def added(token: Any) -> AddedToken:
    """An added token, with what its object says of it."""
    text = content(token)
    if not text:
        raise InputError(f"an added token must be text, not {token!r:.60}")
    told = token if isinstance(token, dict) else {}
    flags = {name: bool(told.get(name, False)) for name in ("single_word", "lstrip", "rstrip")}
    return AddedToken(text, normalized=bool(told.get("normalized", False)), **flags)


def plain(pipeline: Pipeline, control: set[str]) -> Pipeline:
    """The pipeline without its post-processor, which a window's template replaces, and with no special tokens but control ones.

    The library leaves special tokens of a text to be split as text, as it is told to here, but other added ones are tokens.
    """
    values = json.loads(pipeline.to_str())
    values["post_processor"] = None
    for token in values.get("added_tokens", []):
        token["special"] = token["content"] in control
    return Pipeline.from_str(json.dumps(values, ensure_ascii=False))
