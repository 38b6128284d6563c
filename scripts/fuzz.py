#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Spoils files that the project reads, over and over, and looks whether reading them ever ends in anything but one line.

Whatever a file holds, it is read, or refused by an InputError, within 10 seconds and 1 GiB of memory.
What ends otherwise is kept, with its traceback beside it; `fuzz.py TARGET --case FILE` reads such a file again. With atheris
(pip install atheris) cases are guided by the code that they reach, without it by the ways in which they end.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helpers.commands import process  # which ends what Ctrl-C meets from here on

# isort: split
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from helpers.config import BertConfig

MOST_SECONDS, MOST_BYTES = 10.0, 1 << 30
ASLEEP = 6  # how many times as long a case may take that does not work all the time
STARTS = 120.0  # seconds in which a worker imports what it needs and reads what is not spoilt
MOST_SIZE, MOST_KEPT = 1 << 20, 64 << 20  # bytes of a case, and of those that others are made of
WORKER, READY = "--worker", "ready"
SPOILT = "spoilt"  # the name of the file that is, for whoever looks after a worker


# Targets


class Target(NamedTuple):
    """What is spoilt, and what reads it.

    Args:
        write: fills a folder; gives the names of the files that are spoilt, and good contents of each: that which stands
            there while another one is spoilt, and further ones.
        read: what the folder holds.
    """

    write: Callable[[Path], Mapping[str, Sequence[bytes]]]
    read: Callable[[Path], object]


LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *LETTERS, *(f"##{letter}" for letter in LETTERS))
PASSAGE, QUESTION = "the cat sat on the mat.", "where did it sit?"
TEXTS = (PASSAGE, QUESTION, "", "\u200b \U0001f600 e\u0301 \u4e2d\u6587 \x00\ufffd", "a" * 300)


def small(model_type: str = "bert") -> BertConfig:
    from helpers import families
    from helpers.config import BertConfig

    extra = families.FAMILIES[model_type].extra
    return BertConfig(len(VOCAB), 16, 1, 2, 16, 64, model_type=model_type, extra=extra)


def write_model(folder: Path) -> None:
    """A small model with activation ranges: model.safetensors, config.json and vocab.txt."""
    from dataclasses import replace

    from helpers.checkpoints import pytorch
    from helpers.quantization import ranges
    from helpers.sites import bert_sites
    from helpers.weights import random_weights

    vocab, sites = folder / "vocab.txt", bert_sites(1)
    vocab.write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf-8")
    found = ranges.to_checkpoint({site.name: 1.0 for site in sites if site.quantizers}, sites)
    pytorch.save(folder, replace(random_weights(small(), 1), ranges=found), small(), vocab)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    write_model(folder)
    return load_file(str(folder / "model.safetensors"))


def contents(folder: Path, *names: str) -> dict[str, list[bytes]]:
    return {name: [(folder / name).read_bytes()] for name in names}


def as_json(*values: Any) -> list[bytes]:
    import json

    return [json.dumps(value).encode() for value in values]


def checkpoint(source: str, name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        from helpers import checkpoints

        checkpoints.load(source, folder / name, small())

    return read


def write_safetensors(folder: Path) -> Mapping[str, Sequence[bytes]]:
    write_model(folder)
    return contents(folder, "model.safetensors")


def write_index(folder: Path) -> Mapping[str, Sequence[bytes]]:
    from safetensors.numpy import save_file

    named = tensors(folder)
    parts = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(named)}
    for part in set(parts.values()):
        save_file({name: array for name, array in named.items() if parts[name] == part}, str(folder / part))
    return {"model.safetensors.index.json": as_json({"metadata": {"total_size": 1}, "weight_map": parts})}


def write_torch(folder: Path) -> Mapping[str, Sequence[bytes]]:
    import torch

    named = {name: torch.from_numpy(array) for name, array in tensors(folder).items()}
    for name, new in (("model.bin", True), ("old.bin", False)):
        torch.save(named, folder / name, _use_new_zipfile_serialization=new)
    return {"model.bin": [(folder / name).read_bytes() for name in ("model.bin", "old.bin")]}


def write_pickle(folder: Path) -> Mapping[str, Sequence[bytes]]:
    import pickle

    from helpers.checkpoints import megatron, pytorch

    named = tensors(folder)
    megatron.save(folder / "model.pkl", pytorch.load(folder, small()))
    return {"model.pkl": [(folder / "model.pkl").read_bytes(), *(pickle.dumps({"model": named}, i) for i in (0, 2, 5))]}


def write_external(folder: Path) -> Mapping[str, Sequence[bytes]]:
    """An ONNX file that has its larger tensors in another one."""
    import onnx

    arrays = [onnx.numpy_helper.from_array(array, name) for name, array in tensors(folder).items()]
    names = [name for name, array in tensors(folder).items() if array.ndim == 2]
    nodes = [onnx.helper.make_node("MatMul", ["x", name], [f"{name}.y"], f"/{name}/MatMul") for name in names]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "bert", [], [], arrays))
    whole = model.SerializeToString()
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="data", size_threshold=128)
    found = contents(folder, "model.onnx", "data")
    found["model.onnx"].append(whole)
    return found


def write_configuration(folder: Path) -> Mapping[str, Sequence[bytes]]:
    from helpers import families

    write_model(folder)
    return {
        "config.json": contents(folder, "config.json")["config.json"]
        + as_json(*(small(name).to_dict() for name in families.FAMILIES))
    }


def build(folder: Path, backend: int = -1, **fields: Any) -> Any:
    from helpers import backends
    from helpers.layouts import Profile
    from helpers.request import BuildRequest

    return backends.find(backends.NAMES[backend]).build(BuildRequest("pytorch", folder, (Profile(2, 32),), **fields))


def read_configuration(folder: Path) -> None:
    from helpers.config import TASKS, BertConfig
    from helpers.errors import InputError

    for task in TASKS:
        with suppress(InputError):
            BertConfig.load(folder, task).to_dict()
    build(folder)


def write_wordpiece(folder: Path) -> Mapping[str, Sequence[bytes]]:
    token = {"content": "[SEP]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "never_split": ["the"],
        "cls_token": "[CLS]",
        "sep_token": token,
    }
    write_model(folder)
    numbered = {
        **settings,
        "added_tokens_decoder": {"0": {**token, "content": "[PAD]"}, str(len(VOCAB)): {**token, "content": "<e>"}},
    }
    return {
        **contents(folder, "vocab.txt"),
        "tokenizer_config.json": as_json(settings, numbered),
        "special_tokens_map.json": as_json({"pad_token": "[PAD]", "sep_token": token, "additional_special_tokens": ["<e>"]}),
        "added_tokens.json": as_json({"<e>": len(VOCAB), "<f>": len(VOCAB) + 1}),
    }


def write_pipelines(folder: Path) -> Mapping[str, Sequence[bytes]]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {token: i for i, token in enumerate(VOCAB)}
    made = []
    for model, before in (
        (models.WordPiece(ids, unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()),
        (models.Unigram([(token, -float(i)) for token, i in ids.items()], unk_id=1), pre_tokenizers.Metaspace()),
        (models.BPE({**ids, "th": len(ids)}, [("t", "h")], unk_token="[UNK]"), pre_tokenizers.ByteLevel()),
    ):
        pipeline = Tokenizer(model)
        pipeline.normalizer = normalizers.Sequence(
            [normalizers.BertNormalizer(), normalizers.Replace("x", "y"), normalizers.NFC()]
        )
        pipeline.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), before])
        pipeline.decoder = decoders.WordPiece()
        pipeline.add_special_tokens(["[CLS]", "[SEP]"])
        pipeline.add_tokens([AddedToken("<e>", single_word=True, lstrip=True)])
        made.append(pipeline.to_str().encode())
    return {"tokenizer.json": made}


def write_bytelevel(folder: Path) -> Mapping[str, Sequence[bytes]]:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, "\u0120", "th", "the"]
    return {
        "tokenizer_config.json": as_json({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
        "vocab.json": as_json({name: i for i, name in enumerate(names)}),
        "merges.txt": [b"#version: 0.2\nt h\nth e\n"],
    }


def write_sentencepiece(folder: Path) -> Mapping[str, Sequence[bytes]]:
    import struct

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    names = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *LETTERS, "\u2581", "\u2581the"]
    pieces = [
        field(1, field(1, name.encode()) + b"\x15" + struct.pack("<f", -i) + b"\x18" + bytes([1 + 2 * (i == 0) + (i == 1)]))
        for i, name in enumerate(names)
    ]
    return {
        "tokenizer_config.json": as_json({"tokenizer_class": "AlbertTokenizer", "keep_accents": False}),
        "spiece.model": [b"".join(pieces) + field(2, b"\x18\x01") + field(3, field(1, b"nfkc"))],
    }


def read_tokenizer(folder: Path) -> None:
    from helpers import families, tokenization

    tokenizer, template = tokenization.read(folder, families.FAMILIES["bert"].tokenizer, families.TOKENIZERS)
    for part in template[:3]:
        tokenizer.ids(part)
    tokenization.check_size(tokenizer, 1000, folder)
    tokenizer(TEXTS)
    tokenization.Tokenizer.from_json(tokenizer.to_json())(TEXTS)


def squad() -> dict[str, Any]:
    asked = [
        {"id": f"q{i}", "question": text, "answers": [{"text": "mat", "answer_start": 19}]} for i, text in enumerate(TEXTS[:2])
    ]
    impossible = {"id": "none", "question": "who?", "answers": [], "is_impossible": True}
    paragraphs = [{"context": PASSAGE, "qas": asked}, {"context": TEXTS[3], "qas": [impossible]}]
    return {"version": "v2.0", "data": [{"title": "cats", "paragraphs": paragraphs}]}


def write_squad(folder: Path) -> Mapping[str, Sequence[bytes]]:
    import json

    write_engine(folder)
    return {"squad.json": [*as_json(squad()), json.dumps(squad(), indent=1, ensure_ascii=False).encode()]}


def read_squad(folder: Path) -> None:
    from helpers.qa import squad
    from helpers.qa.windows import Options
    from helpers.reader import Reader

    with Reader.open(folder / "engine") as reader:
        options = reader.options(Options(handle_impossible_answer=True))
        for _ in reader.answers(reader.encode_squad(*squad.read(folder / "squad.json"), options), options):
            pass


def write_engine(folder: Path, **fields: Any) -> Mapping[str, Sequence[bytes]]:
    from helpers import engine_file

    write_model(folder)
    engine_file.save(folder / "engine", build(folder, **fields))
    return contents(folder, "engine", "engine.json")


def write_description(folder: Path) -> Mapping[str, Sequence[bytes]]:
    return {"engine.json": write_engine(folder)["engine.json"]}


def write_bare_engine(folder: Path) -> Mapping[str, Sequence[bytes]]:
    """Engines without their descriptions, which would tell that they are spoilt."""
    found = [write_engine(folder, packed=packed)["engine"][0] for packed in (True, False)]
    (folder / "engine.json").unlink()
    return {"engine": found}


def ask_spoilt(folder: Path) -> None:
    """As `ask`; weights may be such that all overflows, of which is told when it happens."""
    try:
        ask(folder)
    except RuntimeError as e:
        if "logits are not numbers" not in str(e):
            raise


def ask(folder: Path) -> None:
    from helpers.config import QUESTION_ANSWERING
    from helpers.reader import Reader

    bare = not (folder / "engine.json").exists()
    with Reader.open(folder / "engine", vocab_file=folder / "vocab.txt" if bare else None) as reader:
        if reader.task == QUESTION_ANSWERING:
            reader.answer(QUESTION, PASSAGE)
        else:
            list(reader.results(reader.encode_texts(TEXTS)))


def calibrated(folder: Path) -> Any:
    from helpers.request import Calibration

    return build(folder, int8=True, calibration=Calibration(folder / "squad.json", 1, folder / "ranges"))


def write_calibration(folder: Path) -> Mapping[str, Sequence[bytes]]:
    from safetensors.numpy import save_file

    kept = {name: array for name, array in tensors(folder).items() if not name.endswith("_amax")}
    save_file(kept, str(folder / "model.safetensors"))
    (folder / "squad.json").write_bytes(*as_json(squad()))
    calibrated(folder)
    return contents(folder, "ranges")


def write_timing(folder: Path) -> Mapping[str, Sequence[bytes]]:
    write_model(folder)
    build(folder, backend=0, timing_cache=folder / "timing")
    [whole] = contents(folder, "timing")["timing"]
    return {"timing": [whole, whole.rpartition(b"\nxxh3")[0]]}  # and without the digest, which tells that it is spoilt


def read_timing(folder: Path) -> None:
    from helpers.backends.tensorrt import build

    build.check_timing_cache(folder / "timing")


TARGETS = {
    "safetensors": Target(write_safetensors, checkpoint("pytorch", "model.safetensors")),
    "index": Target(write_index, checkpoint("pytorch", "model.safetensors.index.json")),
    "torch": Target(write_torch, checkpoint("pytorch", "model.bin")),
    "pickle": Target(write_pickle, checkpoint("pickle", "model.pkl")),
    "onnx": Target(write_external, checkpoint("onnx", "model.onnx")),
    "config": Target(write_configuration, read_configuration),
    "wordpiece": Target(write_wordpiece, read_tokenizer),
    "bytelevel": Target(write_bytelevel, read_tokenizer),
    "sentencepiece": Target(write_sentencepiece, read_tokenizer),
    "tokenizer": Target(write_pipelines, read_tokenizer),
    "squad": Target(write_squad, read_squad),
    "description": Target(write_description, ask),
    "engine": Target(write_bare_engine, ask_spoilt),
    "calibration": Target(write_calibration, calibrated),
    "timing": Target(write_timing, read_timing),
}
NEEDS = {"torch": "torch", "timing": "tensorrt"}  # modules that not every machine has


# Spoiling

DIGITS, NESTED, TWICE = "\x01digits", "\x01nested", "\x01twice"  # what JSON's writer does not write, put in afterwards
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e308, 1e-30, float("nan"), float("inf"), 10**8, 2**31, 2**63, 10**30),
    *("", "a", " ", "\0", "\ud800", "\x1b[31m", "../a", "/dev/zero", "a" * 5000, "\U0001f600"),
    *([], {}, [[]], [None], DIGITS, NESTED),
)
NUMBERS = [
    value.to_bytes(size, "little") for size in (1, 4, 8) for value in (0, 1, 127, 128, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
]


def tokens() -> list[str]:
    """What the project's own code looks for in files, roughly: the short texts in it."""
    import re

    sources = (Path(__file__).resolve().parents[1] / "helpers").rglob("*.py")
    found = (re.findall(r'"([^"\\\n]{1,40})"', source.read_text(encoding="utf-8")) for source in sorted(sources))
    return sorted({text for each in found for text in each})


class Spoiler:
    """Makes bad files of good ones."""

    def __init__(self, generator: random.Random) -> None:
        self.random, self.tokens = generator, tokens()

    def __call__(self, data: bytes) -> bytes:
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 8))):
            way = self.random.choice((self.structure, self.structure, self.structure, self.raw))
            made = way(data)
            data = made if len(made) < MOST_SIZE else data
        return data

    def structure(self, data: bytes) -> bytes:
        """Something that still looks like a file of this kind, where it is of one."""
        head = int.from_bytes(data[:8], "little")
        if data[8:9] == b"{" and 2 <= head <= len(data) - 8:  # safetensors
            header = self.json(data[8 : 8 + head])
            return len(header).to_bytes(8, "little") + header + data[8 + head :]
        if data[:2] == b"PK":
            return self.zip(data)
        if data[:1] == b"\x80":
            return self.pickle(data)
        if data[:1] in b"{[":
            return self.json(data)
        return self.raw(data)

    def raw(self, data: bytes) -> bytes:
        choose, size = self.random.choice, len(data)
        at = self.random.randrange(size + 1)
        end = min(size, at + choose((1, 1, 2, 4, 8, 16, 100, 1000)))
        part = data[at:end]
        with_token = choose((choose(NUMBERS), choose(self.tokens).encode(), bytes([self.random.randrange(256)])))
        flipped = bytes([part[0] ^ 1 << self.random.randrange(8)]) + part[1:] if part else b""
        middle = choose(
            (flipped, flipped, flipped, with_token, with_token + part, b"", part * choose((2, 2, 100)), bytes(len(part)))
        )
        return data[:at] + middle + (b"" if self.random.random() < 0.03 else data[end:])

    def pieces(self, pieces: list[bytes]) -> bytes:
        """A piece out, twice, elsewhere, or spoilt."""
        if pieces:
            at, other = (self.random.randrange(len(pieces)) for _ in range(2))
            new = self.random.choice(
                ([], [pieces[at]] * self.random.choice((2, 2, 100)), [pieces[other]], [self.raw(pieces[at])])
            )
            pieces[at : at + 1] = new
        return b"".join(pieces)

    def pickle(self, data: bytes) -> bytes:
        """By its operations."""
        import pickletools

        starts = []
        try:
            starts += [at for _, _, at in pickletools.genops(data)]
        except Exception:  # spoilt already
            starts = starts or [0]
        return self.pieces([data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])])

    def zip(self, data: bytes) -> bytes:
        """One of its files, packed again."""
        import io
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                parts = {name: file.read(name) for name in file.namelist()}
        except Exception:  # spoilt already
            parts = {}
        if not parts:
            return self.raw(data)
        name = self.random.choice(sorted(parts) + [name for name in parts if name.endswith(".pkl")] * len(parts))
        parts[name] = self.structure(parts[name])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content)
        return packed.getvalue()

    def json(self, data: bytes) -> bytes:
        """A member or an element out, twice, with another name, or another value."""
        import json

        try:
            value = json.loads(data)
        except (ValueError, RecursionError):  # spoilt already
            return self.raw(data)
        holders = [each for each in walk(value) if each]
        if not holders:
            return json.dumps(self.odd()).encode()
        holder = self.random.choice(holders)
        key = self.random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        way = self.random.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[self.random.choice((self.random.choice(self.tokens), f"{key}{TWICE}", ""))] = holder[key]
        elif way == 1:
            holder *= self.random.choice((2, 2, 50))
        elif way == 2:
            other = self.random.choice(holders)
            holder[key] = json.loads(json.dumps(self.random.choice(list(other.values() if isinstance(other, dict) else other))))
        elif way == 3 and isinstance(holder, dict):
            holder[self.random.choice(self.tokens)] = self.odd()
        elif way == 4 and type(holder[key]) in (int, float):
            with suppress(OverflowError):  # a half of thousands of digits
                holder[key] *= self.random.choice((-1, 2, 1000, 10**6, 0.5))
        else:
            holder[key] = self.odd()
        text = json.dumps(value).replace(json.dumps(TWICE)[1:-1], "")
        text = text.replace(json.dumps(DIGITS), "9" * 5000).replace(json.dumps(NESTED), "[" * 5000 + "]" * 5000)
        return text.encode()

    def odd(self) -> Any:
        return self.random.choice((*ODD, self.random.choice(self.tokens)))


def walk(value: Any) -> Iterator[Any]:
    """All lists and objects in a JSON value."""
    if isinstance(value, (list, dict)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from walk(inner)


# One case


def attempt(target: Target, folder: Path) -> tuple[str, str]:
    """Reads what the folder holds; (the way in which that ended, a traceback if it may not end so)."""
    import traceback

    from helpers.errors import InputError

    def way(error: BaseException) -> str:
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        own = [place for place in places if "helpers" in place[0]] or places
        cause = way(error.__cause__) if error.__cause__ else ""
        return f"{type(error).__name__} {own[-1]} {cause}"

    try:
        target.read(folder)
    except InputError as e:
        return way(e), ""
    except BaseException as e:  # panics of Rust's among them
        return way(e), traceback.format_exc()
    return "read", ""


class Worker:
    """Reads spoilt files.

    Args:
        folder: to be filled; there is room for more beside it.
        kept: the folder for cases that may not end as they do.
        say: is called after each case, with the place where it was kept, or with nothing.
        before: is called before each case.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        kept: Path,
        say: Callable[[str], object] = lambda line: None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.target, self.folder, self.kept, self.say, self.before = name, TARGETS[name], folder, kept, say, before
        self.good = {file: list(seeds) for file, seeds in self.target.write(folder).items()}
        self.files, self.seen = sorted(self.good), {"read"}
        for file in self.files:
            (folder / file).write_bytes(self.good[file][0])
        way, trace = attempt(self.target, folder)
        if way != "read":
            raise RuntimeError(f"{name} cannot be read before it is spoilt: {way} {trace}")

    def read(self, file: str, content: bytes) -> bool:
        """Reads one case; whether it ended in a way of its own."""
        (self.folder.parent / SPOILT).write_text(file, encoding="utf-8")
        (self.folder / file).write_bytes(content)
        self.before()
        way, trace = attempt(self.target, self.folder)
        new = way not in self.seen
        self.seen.add(way)
        self.say(str(keep(self.kept, self.name, way, file, content, trace)) if trace and new else "")
        (self.folder / file).write_bytes(self.good[file][0])
        return new

    def mutate(self, seed: int, cases: int | None = None) -> None:
        """Reads so many cases, or goes on until it is killed. Of what ended in a new way more is made."""
        import itertools
        import random

        generator = random.Random(seed)
        spoil = Spoiler(generator)
        for _ in itertools.repeat(None) if cases is None else range(cases):
            file = generator.choice(self.files)
            content = spoil(generator.choice(self.good[file]))
            if self.read(file, content) and sum(map(len, self.good[file])) < MOST_KEPT:
                self.good[file].append(content)

    def guide(self, seed: int) -> None:
        """The same, guided by the code that cases reach."""
        import random

        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

        corpus, spoil = self.folder.parent / "corpus", Spoiler(random.Random(seed))
        corpus.mkdir()
        for number, file in enumerate(self.files):  # which a case's first byte tells
            for i, content in enumerate(self.good[file]):
                (corpus / f"{number}-{i}").write_bytes(bytes([number]) + content)

        def spoilt(data: bytes, most: int, seed: int) -> bytes:
            spoil.random.seed(seed)
            return data[:1] + spoil(data[1:])[: most - 1]

        def one(data: bytes) -> None:
            if data:
                self.read(self.files[data[0] % len(self.files)], data[1:])

        limits = ["-timeout=100000", "-rss_limit_mb=0", "-malloc_limit_mb=0", f"-max_len={MOST_SIZE}"]  # which are ours
        flags = [f"-seed={seed % 2**31 or 1}", "-verbosity=0", *limits, str(corpus)]
        atheris.Setup([sys.argv[0], *flags], one, custom_mutator=spoilt)
        atheris.Fuzz()


def keep(kept: Path, target: str, way: str, file: str, content: bytes, trace: str) -> Path:
    """Keeps a case and what it ended in; gives the case's path. Of cases that end alike one is kept."""
    import hashlib

    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{target}-{hashlib.sha256(way.encode()).hexdigest()[:12]}-{file}"
    path.write_bytes(content)
    path.with_name(f"{path.name}.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")
    return path


def work(argv: list[str]) -> None:
    """`--worker TARGET SEED FOLDER KEPT`: cases without end."""
    import contextlib
    import resource

    name, seed, folder, kept = argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    out = os.dup(1)
    os.dup2(2, 1)  # whatever libraries print

    def say(line: str) -> None:
        os.write(out, f"{line}\n".encode())

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, resource.RLIM_INFINITY))

    try:
        import atheris
    except ImportError:
        atheris = None
    with atheris.instrument_imports(include=["helpers"]) if atheris else contextlib.nullcontext():
        worker = Worker(name, Path(folder), Path(kept), say, limit)
    say(READY)
    (worker.guide if atheris else worker.mutate)(int(seed))


# Many cases


def fuzz(name: str, seconds: float, seed: int, kept: Path) -> tuple[int, set[Path]]:
    """Reads spoilt files for a while, in one worker after the other where they die; (how many cases, what was kept)."""
    import math
    import tempfile
    import time
    from contextlib import closing

    from helpers.commands import bars

    end, count, found = math.inf, 0, set[Path]()
    with bars.bar(name, unit=" cases") as shown:
        while time.monotonic() < end:
            with tempfile.TemporaryDirectory() as place, closing(watched(name, seed + count, Path(place), kept)) as lines:
                for line in lines:
                    if line == READY:
                        end = min(end, time.monotonic() + seconds)
                        continue
                    count += 1
                    shown.n = count
                    if line:
                        found.add(Path(line))
                    if time.monotonic() >= end:
                        break
    return count, found


def watched(name: str, seed: int, place: Path, kept: Path) -> Generator[str, None, None]:
    """The lines of a worker, which ends when it dies, takes too long over a case, or nobody reads on.

    Raises:
        RuntimeError: it did not get as far as the first case.
    """
    import subprocess

    folder, log = place / "files", place / "log"
    folder.mkdir()
    command = [sys.executable, __file__, WORKER, name, str(seed), str(folder), str(kept)]
    # One thread, which does all the work, and one heap: what the process reserves is what it uses, nearly.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "bufsize": 0, "env": environment}
    patience, why = STARTS, ""
    with open(log, "wb") as errors, subprocess.Popen(command, stderr=errors, **pipes) as child:
        assert child.stdout
        with process.at_end(lambda: ended(child)):
            try:
                while not why:
                    if not answers(child, patience):
                        why = f"it was still at it after {patience:g} s"
                    elif line := child.stdout.readline():
                        patience = MOST_SECONDS
                        yield line.decode().rstrip("\n")
                    else:
                        why = f"it died with status {child.wait()}"
            finally:
                child.kill()
    why = f"{why}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
    if not (place / SPOILT).exists():
        raise RuntimeError(f"{name} cannot be read: {why}")
    file = (place / SPOILT).read_text(encoding="utf-8")
    content = (folder / file).read_bytes()
    yield str(keep(kept, name, repr(content), file, content, why))


def answers(child: subprocess.Popen[bytes], patience: float) -> bool:
    """Whether a process says something before it has worked so many seconds: on a busy machine others pass as well."""
    import select
    import time

    def worked() -> float:
        stat = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    assert child.stdout
    start, before = time.monotonic(), worked()
    while not select.select([child.stdout], [], [], 0.2)[0]:
        if worked() - before > patience or time.monotonic() - start > ASLEEP * patience:
            return False
    return True


def ended(child: subprocess.Popen[bytes]) -> str:
    child.kill()
    return ""


def again(name: str, case: Path) -> None:
    """Reads a kept case, and lets what happens happen."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        worker = Worker(name, Path(place), case.parent)
        file = max((file for file in worker.files if case.name.endswith(file)), key=len)
        (worker.folder / file).write_bytes(case.read_bytes())
        worker.target.read(worker.folder)


def main(argv: list[str]) -> None:
    from importlib.util import find_spec

    from helpers.commands import cli

    parser = cli.Parser(__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=cli.at_least(0), default=600.0, help="how long, each")
    parser.add_argument("--seed", type=cli.not_negative, default=12345, help="of what is spoilt, and how")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz"), help="folder to keep cases in")
    parser.add_argument("--case", type=Path, help="read this one again, and nothing else")
    args = parser.parse_args(argv)
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r:.60}: choose of {', '.join(TARGETS)}")
    if args.case:
        if len(args.targets) != 1:
            parser.error("--case is of one target: name it")
        again(args.targets[0], args.case)
        print(f"{args.case} was read")
        return
    kept: set[Path] = set()
    for name in args.targets or TARGETS:
        if name in NEEDS and not find_spec(NEEDS[name]):
            print(f"{name}: not without {NEEDS[name]}")
            continue
        count, found = fuzz(name, args.seconds, args.seed, args.output)
        print(f"{name}: {count} cases, {len(found)} kept", flush=True)
        kept |= found
    if kept:
        process.complain("error", f"{len(kept)} cases end otherwise than in one line: {', '.join(map(str, sorted(kept)))}")
        raise SystemExit(1)


if __name__ == "__main__":
    process.main(work if sys.argv[1:2] == [WORKER] else main)
