"""Megatron pickles: what is read from one, and what one may not do."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.checkpoints import megatron, pickles
from helpers.checkpoints.contents import PICKLE, TEXT, TORCH, UNKNOWN, kind_of
from helpers.checkpoints.writing import MARK
from helpers.errors import InputError
from tests.models import random_model, weights_of
from tests.pickles import ARRAYS, CANARY, CONFIG, EXPECTED, FINAL_OUTPUT, FUSED, OUTPUT, RANGES, TOUCH, Call, dump
from tests.running import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "megatron.pkl"


def renew(path: Path, content: bytes | bytearray) -> None:
    """Writes a file anew: some file systems take much longer to write over one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def check_loaded(path: Path, tolerance: float = 0.0, with_ranges: bool = True) -> None:
    found = megatron.load(path, CONFIG)
    tensors = found.tensors()
    assert set(tensors) == set(EXPECTED)
    for name, array in tensors.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, EXPECTED[name], rtol=tolerance, atol=tolerance / 100, err_msg=name)
    if with_ranges:
        assert {name: found.ranges.get(name) for name in RANGES} == RANGES


# Names


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
    for name, array in EXPECTED.items():
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
    amax = {name: 0.1 + i / 7 for i, name in enumerate(RANGES)}
    weights = weights_of(random_model(CONFIG, seed), amax)
    megatron.save(path, weights)
    found = megatron.load(path, CONFIG)
    for name, array in weights.tensors().items():
        np.testing.assert_array_equal(found.tensors()[name], array.astype(np.float16).astype(np.float32))
    assert {name: found.ranges[name] for name in amax} == {name: float(np.float32(value)) for name, value in amax.items()}
    written = pickle.loads(path.read_bytes())
    assert next(iter(written.items())) == ("note", MARK)
    del written["note"]
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


ACT = "bert.encoder.layers.0.intermediate.dense.bias"
dense_act = SPELLINGS["dense_act"]

MISFITS: dict[str, tuple[Any, str]] = {
    "missing": (without(OUTPUT, "qa_outputs.bias"), f"FILE lacks 2 of 31 tensors: {OUTPUT}, qa_outputs.bias"),
    "all missing": ({}, "FILE lacks 31 of 31 tensors: bert.embeddings.word_embeddings.weight, "),
    "fused missing": (without(f"{FUSED}.weight"), f"FILE lacks 1 of 31 tensors: {FUSED}.weight"),
    "whole numbers": (
        {**ARRAYS, OUTPUT: np.ones((32, 48), np.int64)},
        f"FILE holds int64 tensors where float weights are wanted: {OUTPUT}; give",
    ),
    "objects": (
        {**ARRAYS, OUTPUT: np.array([{}], object)},
        f"FILE holds other tensors where float weights are wanted: {OUTPUT}; ",
    ),
    "whole numbers of PyTorch": (
        {**ARRAYS, OUTPUT: torch.ones(32, 48, dtype=torch.int8)},
        f"FILE holds int8 tensors where float weights are wanted: {OUTPUT}; ",
    ),
    "fused whole numbers": (
        {**ARRAYS, f"{FUSED}.bias": np.ones(96, np.uint8)},
        f"FILE holds uint8 tensors where float weights are wanted: {FUSED}.bias; ",
    ),
    "an expanded tensor": (
        {**ARRAYS, OUTPUT: torch.ones(1).expand(1 << 22, 1 << 23)},
        f"FILE holds expanded float32 tensors where float weights are wanted: {OUTPUT}; ",
    ),
    "a sparse tensor": (
        {**ARRAYS, OUTPUT: torch.eye(3).to_sparse()},
        "FILE holds sparse tensors where float weights are wanted: ",
    ),
    "two spellings": (
        {**ARRAYS, f"module.{OUTPUT}": ARRAYS[OUTPUT] + 1},
        f"FILE has {OUTPUT.replace('layers', 'layer')} twice, with different numbers",
    ),
    "fused and apart": (
        {**ARRAYS, "bert.encoder.layer.0.attention.self.key.bias": np.ones(32)},
        "FILE has bert.encoder.layer.0.attention.self.key.bias twice, with different numbers",
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
    "beyond float32": (
        {**ARRAYS, OUTPUT: np.full((32, 48), 1e300)},
        f"FILE holds numbers that float32 cannot, above 3.4e+38, in {OUTPUT}",
    ),
    "depth": (
        {**ARRAYS, "bert.encoder.layers.2.output.dense.bias": np.ones(32)},
        "FILE has 3 encoder layers, its configuration 2",
    ),
    "range of zero": ({**ARRAYS, f"{FINAL_OUTPUT}._amax": np.zeros(1)}, "must be one positive number"),
    "range of NaN": (spoilt(f"{FUSED}._input_quantizer._amax", np.nan), "must be one positive number"),
    "two ranges": ({**ARRAYS, f"{FINAL_OUTPUT}._amax": np.ones(2)}, "must be one positive number, found shape [2]"),
    "list": ([1.0, 2.0], "FILE holds a list, not a state dict (name → tensor)"),
    "number": (5, "FILE holds a int, not a state dict"),
    "array": (np.ones(3), "FILE holds a PickledArray, not a state dict"),
    "tensor": (torch.ones(3), "FILE holds a Tensor, not a state dict"),
    "none": (None, "FILE holds a NoneType, not a state dict"),
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


def test_code_within_a_storage(guarded: Path) -> None:
    """What _load_from_bytes is given is a file of torch.save, of the older kind."""
    inner = torch_saved({"a": Call(os.system, TOUCH)}, _use_new_zipfile_serialization=False)
    dump(guarded, {"a": Call(torch.storage._load_from_bytes, inner)})
    assert "it asks for posix.system, which no array needs" in said(guarded)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_that_torch_saved(guarded: Path, legacy: bool) -> None:
    guarded.write_bytes(torch_saved({"a": Call(os.system, TOUCH)}, _use_new_zipfile_serialization=not legacy))
    assert "that can be read safely: it asks for posix.system, which no array needs" in said(guarded)


def test_a_dtype_that_makes_pointers_of_bytes(tmp_path: Path) -> None:
    """NumPy's own dtype takes this state, and then frees an object at an address that the file gives."""
    fields = (3, "|", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 1, 1)
    dtype = Call(np.dtype, "V8", False, True, state=fields)
    reconstruct = np.zeros(1).__reduce__()[0]
    bad = Call(reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"A" * 8))
    path = dump(tmp_path / "megatron.pkl", {"a": bad})
    harm = subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], cwd=tmp_path)
    assert harm.returncode < 0
    code = "from helpers.checkpoints import contents, pickles; from pathlib import Path; "
    code += f"print(pickles.read(Path({str(path)!r}), contents.PICKLE))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Tensors(arrays={}, dtypes={'a': 'other'})\n"), done.stderr


def reduced(shape: tuple[int, ...], data: bytes, dtype: str = "f4") -> Call:
    """What NumPy writes for an array, with any shape and content."""
    function = np.zeros(1).__reduce__()[0]
    return Call(function, np.ndarray, (0,), b"b", state=(1, shape, np.dtype(dtype), False, data))


def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    """What PyTorch writes for a tensor of three elements."""
    three = torch.storage.TypedStorage(wrap_storage=torch.UntypedStorage(12), dtype=torch.float32, _internal=True)
    storage = Call(torch.storage._load_from_bytes, torch_saved(three, _use_new_zipfile_serialization=False))
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


WITHIN = torch_saved(Call(torch.storage._load_from_bytes, b""), _use_new_zipfile_serialization=False)
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
    "a storage of junk": {OUTPUT: Call(torch.storage._load_from_bytes, b"junk")},
    "a storage of a number": {OUTPUT: Call(torch.storage._load_from_bytes, 5)},
    "a tensor of no storage": {OUTPUT: Call(torch._utils._rebuild_tensor_v2, "a", 0, (1,), (1,), False, None)},
    "a storage within a storage": {OUTPUT: Call(torch.storage._load_from_bytes, WITHIN)},
    "an odd byte order": {
        OUTPUT: Call(
            np.zeros(1).__reduce__()[0],
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1,), Call(np.dtype, "f4", state=(3, 5)), False, b"0000"),
        )
    },
    "a path": {"path": Path("a")},
}


@pytest.mark.parametrize("state", MALFORMED.values(), ids=MALFORMED)
def test_malformed(guarded: Path, state: Any) -> None:
    assert re.match(
        r"FILE is not a (whole pickle of arrays|pickle that can be read safely): \S", said(dump(guarded, {**ARRAYS, **state}))
    )


OPCODES: dict[str, bytes] = {
    "no pickle": b"hello\n",
    "an endless text": b"\x8d" + b"\xff" * 8 + b"a",
    "endless bytes": b"\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "endless bytes, signed": b"\x8e" + b"\xff" * 8 + b".",
    "an endless array": b"\x96" + struct.pack("<Q", 1 << 40) + b".",
    "an endless frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}",
    "an endless number": b"\x8b" + struct.pack("<i", 0x7FFFFFFF) + b".",
    "a memo far away": b"\x80\x02r" + b"\xff\xff\xff\x7f" + b".",
    "nothing to take": b"0.",
    "nothing to end": b".",
    "nothing to mark": b"t.",
    "a protocol to come": b"\x80\x09}.",
    "an unknown opcode": b"\x80\x04\xfe.",
    "a text that is none": b"\x8c\x02\xff\xfe.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "a dictionary in itself": b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s",
    "a state upon a class": b"\x80\x02cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb.",
    "attributes upon a class": b"\x80\x02cnumpy\nndarray\nN}X\x01\0\0\0aK\x01s\x86b.",
}


@pytest.mark.parametrize("content", OPCODES.values(), ids=OPCODES)
def test_malformed_opcodes(guarded: Path, content: bytes) -> None:
    guarded.write_bytes(content)
    assert said(guarded).startswith("FILE is not a whole pickle of arrays: ")


ELSEWHERE: dict[str, bytes] = {
    "persistent, by text": b"Pos.system\n.",
    "persistent, by value": b"\x80\x02X\x01\0\0\0aQ.",
    "an extension": b"\x80\x02\x82\x07.",
    "an extension of two bytes": b"\x80\x02\x83\x07\x07.",
    "extension 0": b"\x80\x02\x82\x00.",
    "a negative extension": b"\x80\x02\x84\xff\xff\xff\xff.",
    "a registered extension": b"\x80\x02\x82\x70(X\x0c\0\0\0" + TOUCH.encode() + b"tR.",
}


@pytest.mark.parametrize("content", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_not_in_the_pickle(guarded: Path, content: bytes) -> None:
    """Also a code that some library registered, and that Python's own reader has met before."""
    copyreg.add_extension("posix", "system", 0x70)
    try:
        pickle.loads(b"\x80\x02\x82\x70.")
        guarded.write_bytes(content)
        assert said(guarded).startswith(REFUSED)
    finally:
        copyreg.remove_extension("posix", "system", 0x70)


# What a pickle may not cost


def doubled(times: int, leaf: bytes = b"N") -> bytes:
    """t = (t, t), so many times over."""
    return leaf + b"".join(b"q\x000h\x00h\x00\x86" for _ in range(times))


def memoized(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content + b"q\x01"


def again(times: int, call: bytes) -> bytes:
    """A call, so many times."""
    return b"]" + (b"(" + call * 1000 + b"e") * (times // 1000) + b"."


PAIRS = b"](" + b"h\x03" * 100_000 + b"eq\x02"  # a list of as many pairs
LATIN = b"X" + struct.pack("<I", 1 << 25) + b"a" * (1 << 25) + b"q\x01"
BOMBS: dict[str, bytes] = {
    "a key": b"}" + doubled(60) + b"K\x01s.",
    "keys": b"}(" + doubled(60) + b"K\x01u.",
    "a key of a dictionary by itself": b"(" + doubled(60) + b"K\x01d.",
    "a member of a set": b"\x8f(" + doubled(60) + b"\x90.",
    "a member of a frozen set": b"(" + doubled(60) + b"\x91.",
    "a key of a pair": b"ccollections\nOrderedDict\n](]" + doubled(60) + b"a" + b"K\x01ae\x85R.",
    "a byte order": b"cnumpy\ndtype\nX\x02\0\0\0f4\x85R(K\x03" + doubled(60) + b"tb.",
    "a dtype": b"cnumpy\ndtype\n" + doubled(60) + b"\x85R.",
    "an order": b"cnumpy.core.numeric\n_frombuffer\n(C\x040000cnumpy\ndtype\nX\x02\0\0\0f4\x85RK\x01\x85" + doubled(60) + b"tR.",
    "a size": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0" + doubled(60) + b")tR.",
    "an encoding": b"c_codecs\nencode\nX\x01\0\0\0a" + doubled(60) + b"\x86R.",
    "a module's name": doubled(60) + b"X\x01\0\0\0a\x93.",
    "a class": doubled(60) + b")\x81.",
    "a state": b"cnumpy\nndarray\n)R" + doubled(60) + b"b.",
    "an identity": doubled(60) + b"Q.",
    "the same text encoded again and again": LATIN + again(10**5, b"c_codecs\nencode\nh\x01\x85R"),
    "the same pairs again and again": b"K\x01K\x02\x86q\x03" + PAIRS + again(10**5, b"ccollections\nOrderedDict\nh\x02\x85R"),
    "lists without end": b"]" * 3_000_000 + b".",
    "numbers without end": b"(" + b"K\x01" * 3_000_000 + b"l.",
    "notes without end": b"".join(b"Nr" + struct.pack("<I", i) for i in range(700_000)) + b".",
    "digits": b"L" + b"9" * 10**6 + b"L\n.",
    "digits of a note": b"Np" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_bombs(guarded: Path, content: bytes) -> None:
    """Nothing of a few bytes, or of some megabytes, takes more than seconds, or more memory than the fixture grants."""
    guarded.write_bytes(b"\x80\x04" + content)
    start = time.process_time()
    text = said(guarded)
    assert re.match(r"FILE (is not a (whole pickle of arrays|pickle that can be read safely): \S|holds a )", text)
    assert time.process_time() - start < 5


def test_a_pickle_leaves_nothing_changed(guarded: Path) -> None:
    """State set upon what a pickle may ask for does not reach the next pickle."""
    for part in (b"numpy\nndarray", b"numpy\ndtype", b"collections\nOrderedDict", b"_codecs\nencode"):
        for build in (b"}X\x05\0\0\0arrayK\x05sb.", b"N}X\x0c\0\0\0__setstate__K\x05s\x86b."):
            renew(guarded, b"\x80\x02c" + part + b"\n" + build)
            assert said(guarded)
    guarded.unlink()
    check_loaded(dump(guarded, ARRAYS, 2))


# Damage

KINDS = (PICKLE, TEXT, TORCH, UNKNOWN)
UNSUPERVISED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": torch.ones(3), "c": np.float32(2), "d": (1, "e", None)}


@pytest.mark.parametrize("protocol", range(6))
def test_truncated(guarded: Path, protocol: int) -> None:
    dump(guarded, SMALL, protocol)
    assert list(pickles.read(guarded, PICKLE).arrays) == ["a.weight", "b", "c"]
    for keep in reversed(range(1, guarded.stat().st_size - 1)):
        os.truncate(guarded, keep)
        with pytest.raises(InputError, match=r"is not a (whole pickle of arrays|pickle that can be read safely): "):
            pickles.read(guarded, PICKLE)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_files_of_torch_save(guarded: Path, legacy: bool) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    torch.save(tensors, guarded, _use_new_zipfile_serialization=not legacy)
    size = guarded.stat().st_size
    for keep in reversed(range(0, size, size // 40)):
        os.truncate(guarded, keep)
        assert said(guarded)


@given(
    blob=st.sampled_from([pickle.dumps(SMALL, protocol) for protocol in range(6)]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4),
)
@settings(max_examples=400, suppress_health_check=UNSUPERVISED)
def test_damaged(guarded: Path, blob: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    """Of whatever bytes a file is, arrays come out or one line does."""
    damaged = bytearray(blob)
    for place, width, content in changes:
        start = place % len(damaged)
        damaged[start : start + width] = content
    renew(guarded, damaged)
    try:
        found = pickles.read(guarded, kind_of(guarded, *KINDS)).arrays
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
@settings(max_examples=200, suppress_health_check=UNSUPERVISED)
def test_any_bytes(guarded: Path, content: bytes) -> None:
    renew(guarded, content)
    assert said(guarded)
