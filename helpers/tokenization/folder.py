"""The tokenizer in a checkpoint's folder: tokenizer.json where there is one, else built from the files of its class."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from tokenizers import AddedToken
from tokenizers import Tokenizer as Pipeline

from helpers.errors import InputError
from helpers.reading import read_object
from helpers.tokenization.tokenizer import Template, Tokenizer, reading, unspelled

ROLES = ("cls", "sep", "pad", "unk", "mask", "bos", "eos")
GENERIC = ("", "PreTrainedTokenizer", "TokenizersBackend")  # classes that only read tokenizer.json
WHOLE = "tokenizer.json"
MOST_IDS = 1 << 22  # the largest vocabularies have some 1,000,000 tokens
MOST_GROWTH = 64  # times, of a text
SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents", "split_by_punct", "add_prefix_space")


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
    name = settings["tokenizer_class"]
    name = name[:-4] if name.endswith("Fast") else name
    source = path if path.is_file() or not path.is_dir() else folder / WHOLE
    kind = kinds.get(name, kind)
    special = {**kind.special, **named_tokens(settings, folder)}
    whole = source.suffix == ".json" and source.name not in kind.files
    if path.is_dir() and not source.is_file():
        whole = False
    if not (folder / WHOLE).is_file() and not whole and name not in kinds and name not in GENERIC:
        raise InputError(
            f"{folder}: the tokenizer class {name:.60} is not supported", f"save it as {WHOLE}, or take another model"
        )
    if whole:
        pipeline = read_whole(source)
    else:
        files = find_files(path, folder, kind)
        with reading(", ".join(map(str, files))):
            pipeline = kind.build(files, settings, special)
        with reading(str(folder)):
            add_tokens(pipeline, settings, folder, special)
    control = {token for role, token in special.items() if role in ROLES}
    with reading(str(source)):
        tokenizer = Tokenizer(unspelled(pipeline, control), control)
        tokenizer(["a \U00010380"])  # what goes wrong with all texts, or with unknown letters, does so here
    for role in ("cls", "sep"):
        if pipeline.token_to_id(special[role]) is None:
            raise InputError(f"tokenizer {source} lacks {special[role]:.60}", "is it the model's own?")
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
    """tokenizer_config.json and, over it where that lists no added tokens, special_tokens_map.json; as far as they are there."""
    settings = read_optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings.update(read_optional(folder / "special_tokens_map.json"))
    if not settings.get("tokenizer_class"):
        settings["tokenizer_class"] = read_optional(folder / "config.json").get("tokenizer_class") or ""

    def expect(name: str, kinds: tuple[type, ...], what: str) -> None:
        if not isinstance(settings.get(name), (*kinds, type(None))):
            raise InputError(f"{folder / 'tokenizer_config.json'}: {name} must be {what}, not {settings[name]!r:.60}")

    for name in SWITCHES:
        expect(name, (bool,), "true, false or null")
    for name in ("additional_special_tokens", "never_split"):
        expect(name, (list,), "a list")
    expect("extra_special_tokens", (list, dict), "a list or an object")
    expect("added_tokens_decoder", (dict,), "an object")
    expect("tokenizer_class", (str,), "a name")
    if not (settings["tokenizer_class"] or "a").isidentifier():
        raise InputError(f"{folder}: {settings['tokenizer_class']!r:.60} is no name of a tokenizer class")
    return settings


def read_optional(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object; an empty one where it is not there."""
    return read_object(path, "") if path.exists() else {}


def named_tokens(settings: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Special tokens by role."""
    found = {role: settings.get(f"{role}_token") for role in ROLES}
    return {role: content(token, folder) for role, token in found.items() if token not in (None, "")}


def find_files(path: Path, folder: Path, kind: Kind) -> list[Path]:
    """The files that a kind is built from, the one that was named among them."""
    files = [folder / name for name in kind.files]
    if not path.is_dir():
        files = [path if len(files) == 1 or file.suffix == path.suffix else file for file in files]
    missing = not all(file.is_file() for file in files)
    if missing or not files or not (path.is_dir() or path in files):
        wanted = " or ".join([WHOLE, *([", ".join(kind.files)] if kind.files else [])])
        raise InputError(f"no tokenizer at {path}: there is no {wanted}", "name it with {vocab_file}")
    return files


def read_whole(path: Path) -> Pipeline:
    """A tokenizer.json."""
    values = read_object(path, "")
    with reading(str(path)):
        vocab, added = values["model"]["vocab"], values.get("added_tokens") or []
        if growth(values.get("normalizer")) * growth(values.get("pre_tokenizer")) > MOST_GROWTH:
            raise ValueError("it makes far more of a text than it has")
        check_ids([*(vocab.values() if isinstance(vocab, dict) else ()), *(token["id"] for token in added)])
        return Pipeline.from_str(json.dumps(values))


def growth(step: Any) -> float:
    """How many times as long a step of a tokenizer.json, or a sequence of them, may make a text."""
    if not isinstance(step, dict):
        return 1.0
    longer = 2.0 if step.get("type") == "ByteLevel" else 1.0  # a byte beyond ASCII is written as a letter of two
    for inner in step.get("normalizers") or step.get("pretokenizers") or ():
        longer *= growth(inner)
    written = step.get("content") or step.get("prepend")
    return longer * (len(written) if isinstance(written, str) and written else 1)


def check_ids(ids: Iterable[Any]) -> None:
    """Raises ValueError where a token has an id for which the library would make room that no machine has."""
    odd = [i for i in ids if type(i) is not int or not 0 <= i < MOST_IDS]
    if odd:
        raise ValueError(f"a token has the id {odd[0]!r:.60}")


def add_tokens(pipeline: Pipeline, settings: Mapping[str, Any], folder: Path, special: Mapping[str, str]) -> None:
    """Tokens that stand outside of the vocabulary, or that no text splits. Raises InputError where an id is taken already."""
    further = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    further = list(further.values()) if isinstance(further, dict) else further
    # Where words that are never split are no tokens themselves, nothing tells what becomes of them.
    never = [token for token in settings.get("never_split") or [] if pipeline.token_to_id(content(token, folder)) is not None]
    names = {*special.values(), *(content(token, folder) for token in further)}
    numbered = numbered_tokens(settings, folder)

    def added(token: Any, single_word: bool = False) -> AddedToken:
        name, told = content(token, folder), token if isinstance(token, dict) else {}
        normalized = not told.get("special", name in names)
        flags = {"single_word": single_word, "lstrip": False, "rstrip": False, "normalized": normalized}
        return AddedToken(name, **{flag: bool(told.get(flag, value)) for flag, value in flags.items()})

    pipeline.add_tokens([added(numbered[i]) for i in sorted(numbered)] + [added(token) for token in further])
    pipeline.add_special_tokens([added(token, single_word=True) for token in never])
    for i, token in numbered.items():
        found = pipeline.token_to_id(content(token, folder))
        if found != i:
            raise InputError(f"{folder}: the added token {content(token, folder)!r:.60} has the id {found}, not {i}")


def numbered_tokens(settings: Mapping[str, Any], folder: Path) -> dict[int, Any]:
    """Added tokens by their ids: those of tokenizer_config.json, else of added_tokens.json."""
    if "added_tokens_decoder" in settings:
        pairs = [(token, i) for i, token in (settings["added_tokens_decoder"] or {}).items()]
    else:
        pairs = [(token, str(i)) for token, i in read_optional(folder / "added_tokens.json").items()]
    for token, i in pairs:
        if not re.fullmatch("[0-9]{1,9}", i):
            raise InputError(f"{folder}: the added token {content(token, folder)!r:.60} has the id {i:.60}, which is no number")
    check_ids(int(i) for _, i in pairs)
    return {int(i): token for token, i in pairs}


def content(token: Any, folder: Path) -> str:
    """The text of a token, which files give bare or as an object."""
    found = token.get("content") if isinstance(token, dict) else token
    if not isinstance(found, str) or not found or re.search("[\ud800-\udfff]", found):  # half a surrogate pair
        raise InputError(f"{folder}: a special or added token must be text, not {token!r:.60}")
    return found
