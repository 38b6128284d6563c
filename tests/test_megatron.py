"""Megatron: the pickle that it is read from, what a pickle may not do, and the network, against one written in PyTorch."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import re
import resource
import shlex
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers import calibrator, engine, ranges
from helpers.benchmark import random_batch
from helpers.checkpoints import megatron
from helpers.config import BertConfig
from helpers.engine import BuildOptions
from helpers.errors import InputError
from helpers.graphs import Int8
from helpers.sessions.layouts import Packed, Profile
from helpers.weights import BertWeights, LayerNorm, Linear
from helpers.windows import Batch
from tests.models import arrays_of, random_model, small_config, weights_of, write_vocab
from tests.test_bert import difference, ragged, session_of
from tests.test_bert import run as run_session
from tests.test_int8 import rms, rounded, session, strays

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
CONFIG = small_config()
LAYER, NEXT = "bert.encoder.layer.0", "bert.encoder.layer.1"
TENSORS = ranges.quantizers(2, megatron=True)
QUANTIZERS = [name for names in TENSORS.values() for name in names]
SUMS = {
    "bert.embeddings.sum": [f"{LAYER}.attention.output.add_residual_input_quantizer"],
    f"{LAYER}.attention.output.LayerNorm.sum": [f"{LAYER}.output.add_residual_input_quantizer"],
    f"{LAYER}.output.LayerNorm.sum": [f"{NEXT}.attention.output.add_residual_input_quantizer"],
    f"{NEXT}.attention.output.LayerNorm.sum": [f"{NEXT}.output.add_residual_input_quantizer"],
}
FINAL_OUTPUT = "bert.encoder.layers.1.output.LayerNorm.output_quantizer"


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A model under Megatron's names, and a range of its own for every quantizer."""
    given = arrays_of(random_model(CONFIG, seed))
    found = {}
    for name, array in given.items():
        if ".query." in name:
            array = np.concatenate([given[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("query", "query_key_value")
        if not re.search(r"\.(key|value)\.", name):
            found[name.replace("encoder.layer.", "encoder.layers.")] = array
    for i, name in enumerate(QUANTIZERS):
        name = name.replace("encoder.layer.", "encoder.layers.").replace("self.query.", "self.query_key_value.")
        found[f"{FINAL_OUTPUT if 'final' in name else name}._amax"] = np.array([1.0 + i], np.float32)
    return found


ARRAYS = arrays()
FUSED = "bert.encoder.layers.0.attention.self.query_key_value"


def dump(path: Path, state: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(state, protocol))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "megatron.pkl"


def check_loaded(path: Path, tolerance: float = 0.0, with_ranges: bool = True) -> None:
    found = megatron.load(path, CONFIG)
    expected = arrays_of(random_model(CONFIG))
    assert set(found.tensors()) == set(expected)
    for name, array in found.tensors().items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=tolerance, atol=tolerance / 100, err_msg=name)
    if with_ranges:
        kept = {name: found.ranges.get(name) for name in QUANTIZERS}
        assert kept == {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}


# Names


def test_ranges_of_the_sums() -> None:
    plain = ranges.quantizers(2)
    assert {**plain, **SUMS} == TENSORS
    given = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}
    found = ranges.from_checkpoint(given, 2, megatron=True)
    assert {name: found[name] for name in SUMS} == {name: given[quantizer] for name, [quantizer] in SUMS.items()}
    assert ranges.from_checkpoint(given, 2) == {name: amax for name, amax in found.items() if name not in SUMS}
    back = ranges.to_checkpoint(found, 2, megatron=True)
    assert set(back) == set(given)
    assert ranges.from_checkpoint(back, 2, megatron=True) == found
    assert not any("residual" in name for name in ranges.to_checkpoint(found, 2))


Respell = Callable[[str], str]
MATMUL = {"qv_a_": "matmul_q_", "qv_b_": "matmul_k_", "av_b_": "matmul_v_", "av_a_": "matmul_a_"}
SPELLINGS: dict[str, Respell] = {
    "as Megatron": str,
    "layer": lambda name: name.replace("encoder.layers.", "encoder.layer."),
    "dense_act": lambda name: name.replace("intermediate.dense.", "intermediate.dense_act."),
    "tokentype": lambda name: name.replace("token_type_embeddings", "tokentype_embeddings"),
    "embedding": lambda name: re.sub(r"(word|position|token_type)_embeddings", r"\1_embedding", name),
    "embedding_": lambda name: name.replace("bert.embeddings.", "bert.embedding_"),
    "embeddings_ and tokentype": lambda name: name.replace("bert.embeddings.", "bert.embeddings_").replace("token_", "token"),
    "gamma": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    "module": lambda name: f"module.{name}",
    "matmul_q": lambda name: re.sub("qv_a_|qv_b_|av_a_|av_b_", lambda m: MATMUL[m[0]], name),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings(path: Path, spell: Respell) -> None:
    renamed = {spell(name): array for name, array in ARRAYS.items()}
    assert len(renamed) == len(ARRAYS)
    assert (renamed.keys() == ARRAYS.keys()) == (spell is str)
    check_loaded(dump(path, renamed))


def test_query_key_and_value_apart(path: Path) -> None:
    """In rows [3, N, D] of one matrix as of three: as the loader of Hugging Face files reads them."""
    apart = {name: array for name, array in ARRAYS.items() if "query_key_value" not in name or "_amax" in name}
    for name, array in arrays_of(random_model(CONFIG)).items():
        if re.search(r"\.(query|key|value)\.", name):
            apart[name] = array
    check_loaded(dump(path, apart))


def test_what_is_not_asked_for_is_left_alone(path: Path) -> None:
    others = {
        "bert.encoder.layers.0.attention.self.query_key_value.weight_scale": np.full(3, np.nan, np.float32),
        f"{FUSED}._input_scale._amax": np.array([-1.0], np.float32),
        f"{FUSED}._weight_quantizer._amax": np.ones((96, 1), np.float32),
        "bert.encoder.layers.0.output.LayerNorm.output_quantizer._amax": np.array([77.0], np.float32),
        "bert.embeddings.position_ids": np.arange(64),
        "lm_head.dense.weight": np.full((3, 3), np.nan),
        "iteration": 7,
        "notes": ["a", None, (1, 2.5), {"b": b"c"}],
        5: np.ones(3),
    }
    check_loaded(dump(path, {**ARRAYS, **others}))
    for name in ("final", "output_quantizer"):
        assert len([entry for entry in megatron.load(path, CONFIG).ranges if name in entry]) == 1


def test_nested_under_model(path: Path) -> None:
    check_loaded(dump(path, {"model": ARRAYS, "optimizer": {"step": 3}, "iteration": 7}))


# Arrays

CASTS: dict[str, tuple[Callable[[np.ndarray], Any], float]] = {
    "float16": (lambda a: a.astype(np.float16), 1e-3),
    "float32": (lambda a: a, 0),
    "float64": (lambda a: a.astype(np.float64), 0),
    "big-endian": (lambda a: a.astype(">f4"), 0),
    "columns first": (np.asfortranarray, 0),
    "strided": (lambda a: np.repeat(a, 2, 0)[::2], 0),
    "read-only": (lambda a: np.broadcast_to(a, (1, *a.shape))[0], 0),
    "torch": (torch.from_numpy, 0),
    "torch float64": (lambda a: torch.from_numpy(a).double(), 0),
    "torch float16": (lambda a: torch.from_numpy(a).half(), 1e-3),
    "bfloat16": (lambda a: torch.from_numpy(a).bfloat16(), 1e-2),
    "parameter": (lambda a: torch.nn.Parameter(torch.from_numpy(a)), 0),
    "transposed": (lambda a: torch.from_numpy(a.T.copy()).permute(*range(a.ndim)[::-1]), 0),
    "one of two rows": (lambda a: torch.stack((torch.zeros(a.shape), torch.from_numpy(a)))[1], 0),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("cast", "tolerance"), CASTS.values(), ids=CASTS)
def test_arrays(path: Path, cast: Callable[[np.ndarray], Any], tolerance: float, protocol: int) -> None:
    check_loaded(dump(path, {name: cast(array) for name, array in ARRAYS.items()}, protocol), tolerance)


@pytest.mark.parametrize("protocol", range(6))
def test_ranges_of_any_kind(path: Path, protocol: int) -> None:
    kinds: list[Callable[[float], Any]] = [float, np.float16, np.float32, np.float64, np.array, torch.tensor]
    kinds += [lambda amax: np.full((1, 1), amax), lambda amax: torch.full((1,), amax)]
    names = [name for name in ARRAYS if name.endswith("_amax")]
    amax = {name: kinds[i % len(kinds)](float(ARRAYS[name][0])) for i, name in enumerate(names)}
    check_loaded(dump(path, {**ARRAYS, **amax}, protocol))


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"model": s, "epoch": 3}], ids=["flat", "model"])
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_torch_save(path: Path, kind: str, nest: Callable[[Any], Any]) -> None:
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in ARRAYS.items()}
    torch.save(nest(tensors), path, _use_new_zipfile_serialization=kind == "zip")
    check_loaded(path, 1e-2)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_that_were_pickled_on_a_gpu(path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
    check_loaded(dump(path, {name: torch.from_numpy(array) for name, array in ARRAYS.items()}, protocol))
    assert b"cuda:7" in path.read_bytes()


def test_the_state_dict_of_a_module(path: Path) -> None:
    """It is an OrderedDict with an attribute."""
    state = random_model(CONFIG).state_dict()
    assert isinstance(state, OrderedDict)
    assert hasattr(state, "_metadata")
    for protocol in (2, 4):
        check_loaded(dump(path, state, protocol), with_ranges=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_save(path: Path, seed: int) -> None:
    amax = {name: 0.1 + i / 7 for i, name in enumerate(QUANTIZERS)}
    weights = weights_of(random_model(CONFIG, seed), amax)
    megatron.save(path, weights)
    found = megatron.load(path, CONFIG)
    for name, array in weights.tensors().items():
        np.testing.assert_array_equal(found.tensors()[name], array.astype(np.float16).astype(np.float32))
    assert {name: found.ranges[name] for name in amax} == {name: float(np.float32(value)) for name, value in amax.items()}
    written = pickle.loads(path.read_bytes())
    assert written.keys() == ARRAYS.keys()
    assert {str(array.dtype) for name, array in written.items() if name.endswith("_amax")} == {"float32"}


# What does not fit


def said(path: Path) -> str:
    """The one line that the loader says."""
    with pytest.raises(InputError) as error:
        megatron.load(path, CONFIG)
    text = str(error.value)
    assert text.startswith(str(path)), text
    assert len(text.splitlines()) == 1
    assert len(text) < 5000
    return text.replace(str(path), "FILE")


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in ARRAYS.items() if name not in names}


def spoilt(name: str, value: float, spell: Respell = str) -> dict[str, np.ndarray]:
    array = ARRAYS[name].copy()
    array.flat[-1] = value
    return {spell(key): each for key, each in {**ARRAYS, name: array}.items()}


OUTPUT = "bert.encoder.layers.1.output.dense.weight"
ACT = "bert.encoder.layers.0.intermediate.dense.bias"
dense_act = SPELLINGS["dense_act"]

MISFITS: dict[str, tuple[Any, str]] = {
    "missing": (without(OUTPUT, "qa_outputs.bias"), f"FILE lacks 2 of 31 tensors: {OUTPUT}, qa_outputs.bias"),
    "all missing": ({}, "FILE lacks 31 of 31 tensors: bert.embeddings.word_embeddings.weight, "),
    "fused missing": (without(f"{FUSED}.weight"), f"FILE lacks 1 of 31 tensors: {FUSED}.weight"),
    "whole numbers": ({**ARRAYS, OUTPUT: np.ones((32, 48), np.int64)}, f"FILE lacks 1 of 31 tensors: {OUTPUT}"),
    "whole numbers of PyTorch": (
        {**ARRAYS, OUTPUT: torch.ones(32, 48, dtype=torch.int64)},
        f"FILE lacks 1 of 31 tensors: {OUTPUT}",
    ),
    "no arrays": ({**ARRAYS, OUTPUT: [[1.0]]}, f"FILE lacks 1 of 31 tensors: {OUTPUT}"),
    "shape": (
        {**ARRAYS, OUTPUT: np.ones((48, 32))},
        f"does not fit its configuration: {OUTPUT}: expected [32, 48], found [48, 32]",
    ),
    "shape of dense_act": (
        {**without(ACT), dense_act(ACT): np.ones(47)},
        f"FILE does not fit its configuration: {dense_act(ACT)}: expected [48], found [47]",
    ),
    "rows": ({**ARRAYS, f"{FUSED}.weight": np.ones((97, 32))}, f"FILE: {FUSED}.weight must have 96 rows, found shape [97, 32]"),
    "no rows": ({**ARRAYS, f"{FUSED}.bias": np.array(1.0)}, f"FILE: {FUSED}.bias must have 96 rows, found shape []"),
    "columns": ({**ARRAYS, f"{FUSED}.weight": np.ones((96, 31))}, f"{FUSED}.weight: expected [32, 32], found [32, 31]"),
    "NaN": (spoilt(OUTPUT, np.nan), f"FILE holds NaN or infinity in {OUTPUT}"),
    "infinity of dense_act": (spoilt(ACT, np.inf, dense_act), f"FILE holds NaN or infinity in {dense_act(ACT)}"),
    "NaN in the values": (spoilt(f"{FUSED}.bias", np.nan), f"FILE holds NaN or infinity in {FUSED}.bias"),
    "beyond float32": ({**ARRAYS, OUTPUT: np.full((32, 48), 1e300)}, f"FILE holds NaN or infinity in {OUTPUT}"),
    "depth": (
        {**ARRAYS, "bert.encoder.layers.2.output.dense.bias": np.ones(32)},
        "FILE has 3 encoder layers, its configuration 2",
    ),
    "range of zero": ({**ARRAYS, f"{FINAL_OUTPUT}._amax": np.zeros(1)}, "must be one positive number"),
    "range of NaN": (spoilt(f"{FUSED}._input_quantizer._amax", np.nan), "must be one positive number"),
    "two ranges": ({**ARRAYS, f"{FINAL_OUTPUT}._amax": np.ones(2)}, "must be one positive number, found shape [2]"),
    "list": ([1.0, 2.0], "FILE is not a whole pickle of arrays: it holds a list, not a dictionary (name → array)"),
    "number": (5, "it holds a int, not a dictionary"),
    "array": (np.ones(3), "not a dictionary (name → array)"),
    "tensor": (torch.ones(3), "it holds a Tensor, not a dictionary"),
    "none": (None, "it holds a NoneType, not a dictionary"),
    "half a model": ({"model": without(OUTPUT)}, f"FILE lacks 1 of 31 tensors: {OUTPUT}"),
}


@pytest.mark.parametrize(("state", "says"), MISFITS.values(), ids=MISFITS)
def test_misfits(path: Path, state: Any, says: str) -> None:
    assert says in said(dump(path, state))


def test_names_apart_are_listed_as_they_are_written(path: Path) -> None:
    key = "bert.encoder.layers.0.attention.self.key.weight"
    apart = {**without(f"{FUSED}.weight"), **{key.replace("key", part): np.ones((32, 32)) for part in ("query", "value")}}
    assert f"{key}: expected [32, 32], found [3, 3]" in said(dump(path, {**apart, key: np.ones((3, 3))}))


@pytest.mark.parametrize("name", ["absent.pkl", "folder"])
def test_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=rf"^checkpoint .*{name} cannot be read: (No such file|Is a directory)"):
        megatron.load(tmp_path / name, CONFIG)


# What a pickle may not do


class Call:
    """Pickled, it asks for a call when it is read; `state` is set upon what that gives."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def named(text: str, *arguments: str) -> bytes:
    """A pickle that calls "module name" by protocol 0's GLOBAL, with texts as arguments."""
    module, name = text.split(" ")
    given = b"".join(b"V" + argument.encode("raw_unicode_escape") + b"\n" for argument in arguments)
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(" + given + b"tR."


def stack_named(module: str, name: str, *arguments: str) -> bytes:
    """The same by protocol 4's STACK_GLOBAL, which takes names with dots."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value.encode())]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR."


CANARY = "canary"
TOUCH = f"touch {CANARY}"
PYTHON = f"open({CANARY!r}, 'w')"
REFUSED = "FILE is not a pickle that can be read safely: it asks for "


CODE: dict[str, tuple[bytes, str]] = {
    "os.system": (named("os system", TOUCH), "os.system"),
    "posix.system": (named("posix system", TOUCH), "posix.system"),
    "subprocess": (named("subprocess getoutput", TOUCH), "subprocess.getoutput"),
    "eval": (named("builtins eval", PYTHON), "builtins.eval"),
    "eval, as Python 2 calls it": (named("__builtin__ eval", PYTHON), "__builtin__.eval"),
    "exec": (named("builtins exec", PYTHON), "builtins.exec"),
    "open": (named("builtins open", CANARY, "w"), "builtins.open"),
    "getattr": (named("builtins getattr", "a", "upper"), "builtins.getattr"),
    "import": (named("builtins __import__", "antigravity"), "builtins.__import__"),
    "importlib": (named("importlib import_module", "antigravity"), "importlib.import_module"),
    "object": (b"\x80\x02cbuiltins\nobject\n)\x81.", "builtins.object"),
    "methodcaller": (named("operator methodcaller", "upper"), "operator.methodcaller"),
    "partial": (named("functools partial", "a"), "functools.partial"),
    "copyreg": (named("copyreg _reconstructor", "a", "b", "c"), "copyreg._reconstructor"),
    "pickle.loads": (named("pickle loads", "a"), "pickle.loads"),
    "_codecs.decode": (named("_codecs decode", "a", "rot13"), "_codecs.decode"),
    "collections.namedtuple": (named("collections namedtuple", "a", "b"), "collections.namedtuple"),
    "numpy.load": (named("numpy load", CANARY), "numpy.load"),
    "numpy.fromfile": (named("numpy fromfile", CANARY), "numpy.fromfile"),
    "numpy.save": (named("numpy save", CANARY, "a"), "numpy.save"),
    "numpy.memmap": (named("numpy memmap", CANARY), "numpy.memmap"),
    "numpy.lib.format": (named("numpy.lib.format open_memmap", CANARY), "numpy.lib.format.open_memmap"),
    "runstring": (named("numpy.testing._private.utils runstring", PYTHON, "a"), "numpy.testing._private.utils.runstring"),
    "numpy's eval": (named("numpy.core.multiarray eval", PYTHON), "numpy.core.multiarray.eval"),
    "numpy._core": (named("numpy._core.multiarray fromfile", CANARY), "numpy._core.multiarray.fromfile"),
    "numpy.distutils": (named("numpy.distutils.exec_command exec_command", TOUCH), "numpy.distutils.exec_command.exec_command"),
    "torch.load": (named("torch load", CANARY), "torch.load"),
    "torch.serialization": (named("torch.serialization load", CANARY), "torch.serialization.load"),
    "torch.save": (named("torch save", "a", CANARY), "torch.save"),
    "torch.hub": (named("torch.hub load", "a", "b"), "torch.hub.load"),
    "torch's os": (stack_named("torch.serialization", "os.system", TOUCH), "torch.serialization.os.system"),
    "torch._utils": (named("torch._utils _import_dotted_name", "os.system"), "torch._utils._import_dotted_name"),
    "numpy's os": (stack_named("numpy.lib.format", "os.system", TOUCH), "numpy.lib.format.os.system"),
    "through a method": (stack_named("numpy", "ndarray.tofile", CANARY), "numpy.ndarray.tofile"),
    "through a class": (stack_named("numpy", "dtype.__class__", "a"), "numpy.dtype.__class__"),
    "through globals": (stack_named("collections", "OrderedDict.__init__", "a"), "collections.OrderedDict.__init__"),
    "no module": (stack_named("", "eval", PYTHON), ".eval"),
    "a name with dots": (stack_named("os", "path.os.system", TOUCH), "os.path.os.system"),
    "INST": (b"(V" + TOUCH.encode() + b"\nios\nsystem\n.", "os.system"),
    "OBJ": (b"\x80\x02(cos\nsystem\nV" + TOUCH.encode() + b"\no.", "os.system"),
    "NEWOBJ_EX": (b"\x80\x04cbuiltins\nopen\n(V" + CANARY.encode() + b"\nVw\nt}\x92.", "builtins.open"),
}


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a pickle, in a folder where any code that it runs would leave a file.

    Memory is bounded: a pickle of a few bytes can ask for as much as there is.
    """
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "megatron.pkl"
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    try:
        yield path
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_canary(guarded: Path) -> None:
    """These pickles do run code where they may."""
    for kind in ("os.system", "eval", "exec", "open", "torch's os", "a name with dots", "INST", "OBJ"):
        pickle.loads(CODE[kind][0])
        (guarded.parent / CANARY).unlink()
    guarded.touch()


@pytest.mark.parametrize(("content", "asked"), CODE.values(), ids=CODE)
def test_code_is_refused(guarded: Path, content: bytes, asked: str) -> None:
    guarded.write_bytes(content)
    assert said(guarded) == f"{REFUSED}{asked}, which no array needs"


HIDDEN: dict[str, Callable[[Any], Any]] = {
    "in a value": lambda call: {**ARRAYS, OUTPUT: call},
    "in a key": lambda call: {(call,): 1},
    "in a tuple": lambda call: {**ARRAYS, "notes": (1, [2, {"a": (call,)}])},
    "in a set": lambda call: {**ARRAYS, "notes": [frozenset([1]), call]},
    "in an object array": lambda call: {**ARRAYS, "a": np.array([call, None], object)},
    "under model": lambda call: {"model": {**ARRAYS, OUTPUT: call}},
    "in an OrderedDict": lambda call: OrderedDict(a=call),
    "in a shape": lambda call: {"a": Call(np.ndarray, (call,), "f4")},
    "in a state": lambda call: {"a": Call(np.dtype, "f4", state=(3, call, None, None, None, -1, -1, 0))},
}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_hidden_code_is_refused(guarded: Path, hide: Callable[[Any], Any], protocol: int) -> None:
    dump(guarded, hide(Call(os.system, TOUCH)), protocol)
    text = said(guarded)
    if hide is HIDDEN["in a set"]:
        assert re.match(rf"{REFUSED}(posix\.system|(builtins|__builtin__)\.frozenset), ", text)
    else:
        assert text == f"{REFUSED}posix.system, which no array needs"


def torch_saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_within_a_storage(guarded: Path, legacy: bool) -> None:
    """What _load_from_bytes is given is a file of torch.save."""
    inner = torch_saved({"a": Call(os.system, TOUCH)}, _use_new_zipfile_serialization=not legacy)
    dump(guarded, {"a": Call(torch.storage._load_from_bytes, inner)})
    assert "it asks for posix.system, which no state dict needs" in said(guarded)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_that_torch_saved(guarded: Path, legacy: bool) -> None:
    guarded.write_bytes(torch_saved({"a": Call(os.system, TOUCH)}, _use_new_zipfile_serialization=not legacy))
    assert "that can be read safely: it asks for posix.system, which no state dict needs" in said(guarded)


def test_a_dtype_that_makes_pointers_of_bytes(tmp_path: Path) -> None:
    """NumPy's own dtype takes this state, and then frees an object at an address that the file gives."""
    fields = (3, "|", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 1, 1)
    dtype = Call(np.dtype, "V8", False, True, state=fields)
    reconstruct = np.zeros(1).__reduce__()[0]
    bad = Call(reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"A" * 8))
    path = dump(tmp_path / "megatron.pkl", {"a": bad})
    harm = subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], cwd=tmp_path)
    assert harm.returncode < 0
    code = f"from helpers.checkpoints import megatron; print(megatron.read_pickle(__import__('pathlib').Path({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr


def reduced(shape: tuple[int, ...], data: bytes, dtype: str = "f4") -> Call:
    """What NumPy writes for an array, with any shape and content."""
    function = np.zeros(1).__reduce__()[0]
    return Call(function, np.ndarray, (0,), b"b", state=(1, shape, np.dtype(dtype), False, data))


def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    """What PyTorch writes for a tensor of three elements."""
    storage = Call(torch.storage._load_from_bytes, torch_saved(torch.UntypedStorage(12), _use_new_zipfile_serialization=False))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


MALFORMED: dict[str, Any] = {
    "huge shape": {OUTPUT: reduced((1 << 40, 1 << 40), b"\0" * 12)},
    "overflowing shape": {OUTPUT: reduced((1 << 62, 4), b"")},
    "negative shape": {OUTPUT: reduced((-1, -1), b"\0" * 12)},
    "little data": {OUTPUT: reduced((32, 48), b"\0" * 12)},
    "data of no whole elements": {OUTPUT: reduced((3,), b"\0" * 11)},
    "a list for data": {OUTPUT: reduced((3,), [1.0, 2.0])},  # type: ignore[arg-type]
    "an absurd state": {OUTPUT: Call(np.zeros(1).__reduce__()[0], np.ndarray, (0,), b"b", state=5)},
    "an absurd dtype": {OUTPUT: Call(np.zeros(1).__reduce_ex__(5)[0], b"\0" * 4, 5, (1,), "C")},
    "an absurd order": {OUTPUT: Call(np.zeros(1).__reduce_ex__(5)[0], b"\0" * 4, np.dtype("f4"), (1,), "Q")},
    "a huge tensor": {OUTPUT: rebuilt((1 << 40, 4), (4, 1))},
    "a tensor beyond its storage": {OUTPUT: rebuilt((4,), (1,))},
    "a tensor before its storage": {OUTPUT: rebuilt((2,), (1,), -1)},
    "a negative stride": {OUTPUT: rebuilt((2,), (-1,), 2)},
    "an expanded half": {OUTPUT: torch.ones(1).half().expand(1 << 22, 1 << 23)},
    "an expanded float": {OUTPUT: torch.ones(1).expand(1 << 22, 1 << 23)},
    "a storage of junk": {OUTPUT: Call(torch.storage._load_from_bytes, b"junk")},
    "a storage of a number": {OUTPUT: Call(torch.storage._load_from_bytes, 5)},
    "a tensor of no storage": {OUTPUT: Call(torch._utils._rebuild_tensor_v2, "a", 0, (1,), (1,), False, None)},
    "a sparse tensor": {OUTPUT: torch.eye(3).to_sparse()},
    "a device": {"device": torch.device("cpu")},
    "a path": {"path": Path("a")},
}


@pytest.mark.parametrize("state", MALFORMED.values(), ids=MALFORMED)
def test_malformed(guarded: Path, state: Any) -> None:
    text = said(dump(guarded, {**ARRAYS, **state}))
    assert re.match(r"FILE is not a (whole pickle of arrays|pickle that can be read safely): \S", text)
    assert "weights_only" not in text  # PyTorch's advice to load it unsafely


OPCODES: dict[str, bytes] = {
    "nothing": b"",
    "no pickle": b"hello\n",
    "JSON": b'{"a": [1.0]}',
    "an endless text": b"\x8d" + b"\xff" * 8 + b"a",
    "endless bytes": b"\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "endless bytes, signed": b"\x8e" + b"\xff" * 8 + b".",
    "an endless array": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
    "an endless frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "an endless number": b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b".",
    "a memo far away": b"\x80\x02r" + b"\xff\xff\xff\x7f" + b".",
    "nothing to take": b"0.",
    "nothing to end": b".",
    "nothing to mark": b"t.",
    "a protocol to come": b"\x80\x09}.",
    "an unknown opcode": b"\x80\x04\xfe.",
    "a text that is none": b"\x8c\x02\xff\xfe.",
    "persistent, by text": b"Pos.system\n.",
    "persistent, by value": b"\x80\x02X\x01\0\0\0aQ.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "an extension": b"\x80\x02\x82\x07.",
    "an extension of two bytes": b"\x80\x02\x83\x07\x07.",
    "extension 0": b"\x80\x02\x82\x00.",
    "a negative extension": b"\x80\x02\x84\xff\xff\xff\xff.",
    "a dictionary in itself": b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s",
    "deep lists": b"(" * 100_000 + b"l" * 100_000 + b".",
    "a state upon a class": b"\x80\x02cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb.",
    "attributes upon a class": b"\x80\x02cnumpy\nndarray\nN}X\x01\0\0\0aK\x01s\x86b.",
}


@pytest.mark.parametrize("content", OPCODES.values(), ids=OPCODES)
def test_malformed_opcodes(guarded: Path, content: bytes) -> None:
    guarded.write_bytes(content)
    assert said(guarded).startswith("FILE is not a whole pickle of arrays: ")


def test_the_extension_registry(guarded: Path) -> None:
    """A code that some library registered is a name like any other."""
    copyreg.add_extension("posix", "system", 0x70)
    try:
        guarded.write_bytes(b"\x80\x02\x82\x70(X\x0c\0\0\0" + TOUCH.encode() + b"tR.")
        assert said(guarded) == f"{REFUSED}posix.system, which no array needs"
    finally:
        copyreg.remove_extension("posix", "system", 0x70)


def test_a_pickle_leaves_nothing_changed(guarded: Path) -> None:
    """State set upon what a pickle may ask for does not reach the next pickle."""
    for part in (b"numpy\nndarray", b"numpy\ndtype", b"collections\nOrderedDict", b"_codecs\nencode"):
        for build in (b"}X\x05\0\0\0arrayK\x05sb.", b"N}X\x0c\0\0\0__setstate__K\x05s\x86b."):
            guarded.write_bytes(b"\x80\x02c" + part + b"\n" + build)
            assert said(guarded)
    check_loaded(dump(guarded, ARRAYS, 2))


# Damage

SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": torch.ones(3), "c": np.float32(2), "d": (1, "e", None)}


@pytest.mark.parametrize("protocol", range(6))
def test_truncated(guarded: Path, protocol: int) -> None:
    whole = pickle.dumps(SMALL, protocol)
    guarded.write_bytes(whole)
    assert list(megatron.read_pickle(guarded)) == ["a.weight", "b", "c"]
    for keep in range(len(whole) - 1):
        guarded.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"is not a (whole pickle of arrays|pickle that can be read safely): "):
            megatron.read_pickle(guarded)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_files_of_torch_save(guarded: Path, legacy: bool) -> None:
    whole = torch_saved(
        {name: torch.from_numpy(array) for name, array in ARRAYS.items()}, _use_new_zipfile_serialization=not legacy
    )
    for keep in range(0, len(whole), len(whole) // 40):
        guarded.write_bytes(whole[:keep])
        assert said(guarded)


@given(protocol=st.integers(0, 5), data=st.data())
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged(guarded: Path, protocol: int, data: st.DataObject) -> None:
    """Of whatever bytes a file is, arrays come out or one line does."""
    blob = bytearray(pickle.dumps(SMALL, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(blob) - 1))
        width = data.draw(st.integers(0, 3))
        blob[place : place + width] = data.draw(st.binary(max_size=4))
    guarded.write_bytes(blob)
    try:
        found = megatron.read_pickle(guarded)
    except InputError as e:
        assert len(str(e).splitlines()) == 1
    else:
        assert all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in found.values())


@pytest.mark.parametrize("odd", ["line\x85line", "\x1b[2J", "\u2028"])
def test_names_that_a_terminal_obeys(tmp_path: Path, odd: str) -> None:
    name = odd.encode()
    path = tmp_path / "megatron.pkl"
    path.write_bytes(b"\x80\x04\x8c\x02os" + b"\x8c" + bytes([len(name)]) + name + b"\x93.")
    assert f"it asks for os.{ascii(odd)[1:-1]}, which" in said(path)


@given(content=st.binary(max_size=60))
@example(b"")
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(guarded: Path, content: bytes) -> None:
    guarded.write_bytes(content)
    assert said(guarded)


# The network


def reference(
    weights: BertWeights, config: BertConfig, batch: Batch, amax: Mapping[str, float] | None = None, sums: bool = True
) -> np.ndarray:
    """Logits [B, S, 2] of Megatron's network in float64: r0 = embeddings, x0 = LN(r0), r1 = r0 + attention(x0), …

    Args:
        amax: ranges of the tensors that are rounded.
        sums: whether residuals are sums; else they are normalised, as in BERT.
    """
    amax = amax or {}

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(np.asarray(array, np.float64))

    def round_to(x: Any, name: str) -> Any:
        return rounded(x, amax.get(name))

    def layer_norm(x: Any, norm: LayerNorm) -> Any:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], tensor(norm.gamma), tensor(norm.beta), config.layer_norm_eps)

    def linear(x: Any, part: Linear, source: str) -> Any:
        weight = tensor(part.weight)
        if source in amax:
            step = weight.abs().amax(1, keepdim=True) / 127
            weight = (weight / step).round() * step
        return round_to(x, source) @ weight.T + tensor(part.bias)

    def attention(query: Any, key: Any, value: Any, name: str) -> Any:
        query, key, value = (
            round_to(x, f"{name}.qkv").unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
            for x in (query, key, value)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.from_numpy(batch.input_mask == 0)[:, None, None], -1e30)
        context = round_to(scores.softmax(-1), f"{name}.probabilities") @ value
        return context.transpose(1, 2).flatten(2)

    ids, segments = batch.input_ids, batch.segment_ids
    embeddings = weights.embeddings
    r = tensor(embeddings.word[ids] + embeddings.position[: ids.shape[1]] + embeddings.token_type[segments])
    x = layer_norm(r, embeddings.norm)
    source = "bert.embeddings"
    for i, layer in enumerate(weights.layers):
        name = f"bert.encoder.layer.{i}"
        query, key, value = (linear(x, part, source) for part in (layer.query, layer.key, layer.value))
        context = attention(query, key, value, f"{name}.attention.self")
        added = linear(context, layer.attention_output, f"{name}.attention.self")
        residual = round_to(r, f"{source}.sum") if sums else x
        r = residual + round_to(added, f"{name}.attention.output.dense")
        x, source = layer_norm(r, layer.attention_norm), f"{name}.attention.output.LayerNorm"
        inner = torch.nn.functional.gelu(linear(x, layer.intermediate, source), approximate="tanh")
        added = linear(inner, layer.output, f"{name}.intermediate.gelu")
        residual = round_to(r, f"{source}.sum") if sums else x
        r = residual + round_to(added, f"{name}.output.dense")
        x, source = layer_norm(r, layer.output_norm), f"{name}.output.LayerNorm"
    return np.asarray((x @ tensor(weights.qa_outputs.weight).T + tensor(weights.qa_outputs.bias)).numpy())


def megatron_engine(
    weights: BertWeights, config: BertConfig, amax: Mapping[str, float] | None = None, packed: bool = True
) -> bytes:
    int8 = None if amax is None else Int8(amax)
    return engine.build_onnx(weights, config, BuildOptions([Profile(64, 64)], packed=packed, int8=int8, megatron=True))


def logits_of(blob: bytes, batch: Batch, optimized: bool = True) -> np.ndarray:
    layout = Packed([Profile(64, 64)])
    [output] = session(blob, optimized).run(["logits"], layout.feed(batch))
    return layout.logits(output, batch)


SIZES: list[dict[str, Any]] = [
    {},
    {"num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 37},
    {"num_attention_heads": 1, "hidden_size": 48, "num_hidden_layers": 1, "layer_norm_eps": 1e-3, "type_vocab_size": 3},
]


@pytest.mark.parametrize("changes", SIZES, ids=["2x4", "4x2", "1x1"])
def test_logits(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    weights = weights_of(random_model(config, 3))
    blob = megatron_engine(weights, config)
    for seed, length in enumerate((1, 13, 64)):
        batch = ragged(config, 7, length, seed)
        found, expected = logits_of(blob, batch), reference(weights, config, batch)
        assert difference(found, expected, batch) < 1e-5 * max(1, np.abs(expected).max())
        other = reference(weights, config, batch, sums=False)
        assert difference(found, other, batch) > 0.1


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_the_reference_without_sums_is_bert(tmp_path: Path, packed: bool) -> None:
    """And so is an engine that is not Megatron's."""
    config = small_config()
    weights, batch = weights_of(random_model(config, 3)), ragged(config, 5, 20, 1)
    found = run_session(session_of(weights, config, tmp_path, packed), batch)
    assert difference(found, reference(weights, config, batch, sums=False), batch) < 1e-4


class Case:
    """A model whose every tensor has a range, and what it computes in float64, plain and rounded."""

    def __init__(self, seed: int, **changes: Any) -> None:
        self.config = small_config(**changes)
        self.weights = weights_of(random_model(self.config, seed))
        self.batch = ragged(self.config, 24, 12, seed)
        full = self.batch._replace(input_mask=np.ones_like(self.batch.input_mask))
        generator = np.random.default_rng(seed)
        seen = calibrator.calibrate(self.weights, self.config, [full], megatron=True)
        self.ranges = {name: amax * generator.uniform(0.7, 1.1) for name, amax in seen.items()}
        self.plain = reference(self.weights, self.config, self.batch)
        self.logits = self.without()

    def without(self, *names: str) -> np.ndarray:
        amax = {name: value for name, value in self.ranges.items() if name not in names}
        return reference(self.weights, self.config, self.batch, amax)


@pytest.mark.parametrize("changes", SIZES, ids=["2x4", "4x2", "1x1"])
def test_int8_logits(changes: dict[str, Any]) -> None:
    """As tests/test_int8.py has it: as written but for a stray value, and as run within the rounding's own error."""
    case = Case(5, **changes)
    blob = megatron_engine(case.weights, case.config, case.ranges)
    error = rms(case.logits - case.plain, case.batch)
    as_written, as_run = (logits_of(blob, case.batch, optimized) - case.logits for optimized in (False, True))
    assert strays(as_written, case.batch) <= 2
    assert rms(as_written, case.batch) < 0.1 * error
    assert rms(as_run, case.batch) < error
    assert error < 0.2 * case.plain[case.batch.input_mask == 1].std()


def test_every_rounding_counts() -> None:
    case = Case(5)
    assert set(case.ranges) == set(TENSORS)
    for name in TENSORS:
        changed = strays(case.without(name) - case.logits, case.batch)
        assert (changed == 0) if name == f"{NEXT}.output.LayerNorm" else (changed >= 12), name


def test_calibrated_sums(tmp_path: Path) -> None:
    """The ranges of sums, against the values of the network written in PyTorch's stead by the engine's own tensors."""
    config, weights = small_config(), weights_of(random_model(small_config(), 6))
    batch = random_batch([30], 30, config.vocab_size, 1)
    found = calibrator.calibrate(weights, config, [batch], megatron=True)
    assert set(found) == set(TENSORS)
    first = weights.embeddings
    summed = first.word[batch.input_ids] + first.position[:30] + first.token_type[batch.segment_ids]
    assert found["bert.embeddings.sum"] == pytest.approx(np.abs(summed).max(), rel=1e-5)
    plain = calibrator.calibrate(weights, config, [batch])
    assert set(plain) == set(TENSORS) - set(SUMS)
    assert plain["bert.embeddings"] == found["bert.embeddings"]
    assert plain[f"{LAYER}.attention.output.LayerNorm"] != pytest.approx(found[f"{LAYER}.attention.output.LayerNorm"], rel=1e-3)


# Command line


def run(script: str, args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / script), *shlex.split(args), "--backend", "onnxruntime"]
    return subprocess.run(line, cwd=folder, capture_output=True, timeout=100, text=True, encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a configuration, a vocabulary and a pickle."""
    (tmp_path / "config.json").write_text(json.dumps(asdict(CONFIG)))
    write_vocab(tmp_path / "vocab.txt")
    dump(tmp_path / "megatron.pkl", ARRAYS)
    return tmp_path


def refused(args: str, folder: Path) -> str:
    before = sorted(folder.rglob("*"))
    done = run("builder_varseqlen.py", args, folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"(warning: [^\n]+ not honoured are [^\n]+\n)?error: [^\n]+\n", done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before
    return done.stderr[done.stderr.index("error: ") :]


PKL = "-pkl megatron.pkl -c . -s 32 -o new.engine"


@pytest.mark.parametrize(
    ("args", "precision"),
    [("", "float32"), ("--int8", "int8"), ("-i -il", "int8"), ("-i -f -il --megatron", "int8")],
    ids=["float32", "int8", "interleaved", "megatron"],
)
def test_build_and_ask(work: Path, args: str, precision: str) -> None:
    done = run("builder_varseqlen.py", f"{PKL} {args}", work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote new.engine ")
    description = json.loads((work / "new.engine.json").read_text())
    assert (description["precision"], description["packed"]) == (precision, True)
    assert description["checkpoint"] == str(work / "megatron.pkl")

    weights = megatron.load(work / "megatron.pkl", CONFIG)
    sums = "--megatron" in args
    int8 = Int8(ranges.from_checkpoint(weights.ranges, 2, sums), True, True) if precision == "int8" else None
    options = BuildOptions([Profile(1, 32)], packed=True, int8=int8, megatron=sums)
    assert (work / "new.engine").read_bytes() == engine.build_onnx(weights, CONFIG, options)

    answered = run("inference_varseqlen.py", "-e new.engine -p 'the cat sat on the mat' -q who", work)
    assert answered.returncode == 0, answered.stderr
    assert re.search(r"^Answer: '.+'\nWith probability: \d+\.\d{3}$", answered.stdout, re.M)


NEEDS = "error: --megatron residuals exist in interleaved int8 alone, of a pickle: add --pickle --interleaved --int8 --fp16\n"


@pytest.mark.parametrize(
    "args", [f"{PKL} --megatron", f"{PKL} --megatron --int8 --fp16", "-pt model -c . -o new.engine -i -il --megatron"]
)
def test_megatron_needs_the_rest(work: Path, args: str) -> None:
    assert refused(args, work) == NEEDS


def test_usage(work: Path) -> None:
    assert refused(f"{PKL} --megatron --interleaved", work) == "error: --interleaved is a layout of int8: add --int8 --fp16\n"
    assert "configuration's folder is required: -c" in refused("-pkl megatron.pkl -o new.engine", work)
    assert refused(f"{PKL} -pt model", work) == "error: give exactly one of --ckpt, --onnx, --pytorch, --pickle, not 2\n"
    assert refused("-c . -o new.engine", work) == "error: give exactly one of --ckpt, --onnx, --pytorch, --pickle\n"
    assert refused(PKL.replace("megatron.pkl", "absent.pkl"), work) == (
        "error: checkpoint absent.pkl cannot be read: No such file or directory\n"
    )


def test_padded_engines_have_no_pickle(work: Path) -> None:
    done = run("builder.py", "-pkl megatron.pkl -c . -o new.engine", work)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_code_from_the_command_line(work: Path) -> None:
    dump(work / "megatron.pkl", {**ARRAYS, OUTPUT: Call(os.system, TOUCH)})
    assert refused(PKL, work) == (
        "error: megatron.pkl is not a pickle that can be read safely: it asks for posix.system, which no array needs\n"
    )


def test_missing_ranges_of_the_sums(work: Path) -> None:
    """All are listed; and none of them matters where residuals are normalised."""
    dump(work / "megatron.pkl", {name: array for name, array in ARRAYS.items() if "add_residual" not in name})
    text = refused(f"{PKL} -i -il --megatron", work)
    assert text.startswith("error: int8 needs 4 activation ranges that the checkpoint lacks: ")
    assert text.rstrip().split(": ")[2].split(", ") == sorted(f"{name}._amax" for [name] in SUMS.values())
    assert run("builder_varseqlen.py", f"{PKL} -i -il", work).returncode == 0


def test_without_any_ranges(work: Path) -> None:
    dump(work / "megatron.pkl", {name: array for name, array in ARRAYS.items() if not name.endswith("_amax")})
    assert refused(f"{PKL} -i -il --megatron", work).startswith("error: int8 needs 25 activation ranges that ")
    assert run("builder_varseqlen.py", PKL, work).returncode == 0
