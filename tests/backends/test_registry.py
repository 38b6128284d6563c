"""The registry of backends: found by name, chosen by what is here, recognised by an engine's content; and engines opened."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import backends, engine_file
from helpers.backends.base import Backend, Network
from helpers.backends.onnxruntime.session import OnnxRuntimeSession
from helpers.bert import bert, factorised
from helpers.commands.flags import FLAGS
from helpers.config import ACTIVATIONS
from helpers.engine_file import Built, description_path
from helpers.errors import InputError
from helpers.families import FAMILIES, electra
from helpers.families.base import Family
from helpers.layouts import Profile
from helpers.precision import choose
from helpers.sites import bert_sites
from helpers.tokenization import Template
from helpers.weights import random_weights
from tests.batches import of_lengths, onnx_blob, run
from tests.models import small_config
from tests.running import ROOT
from tests.tensorrt_engines import request_for
from tests.wordpieces import letters

PROFILES = [Profile(4, 16), Profile(1, 64)]


@pytest.fixture(scope="module")
def built() -> Built:
    config, request, onnx = small_config(), request_for(PROFILES), backends.find("onnxruntime")
    weights = random_weights(config)
    network = Network(config, weights, bert_sites(2), choose(fp16=False, int8=False), {})
    return Built(onnx_blob(weights, config, PROFILES), onnx.description_of(request, network, letters(), Template(), 0))


@pytest.fixture
def saved(tmp_path: Path, built: Built) -> Path:
    """An engine with its description."""
    path = tmp_path / "small.engine"
    engine_file.save(path, built)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan"
    path.write_bytes(b"ftrt" + bytes(100))
    return path


# Found and chosen


@pytest.mark.parametrize("name", backends.NAMES)
def test_backends_by_name(name: str) -> None:
    backend = backends.find(name)
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backends.find(name) is backend
    assert backend.on_gpu == (name == "tensorrt")
    assert backend.runtimes


def test_what_command_lines_may_name() -> None:
    assert backends.CHOICES == ("auto", "tensorrt", "onnxruntime")
    several = [backend.runtimes for backend in map(backends.find, backends.NAMES) if len(backend.runtimes) > 1]
    assert several == [backends.RUNTIMES] == [("pycuda", "extension")]


def test_the_observer_is_everywhere() -> None:
    assert backends.observer() is backends.find("onnxruntime")
    backends.find("onnxruntime").check_available()


@pytest.mark.usefixtures("no_tensorrt")
def test_backends_without_tensorrt() -> None:
    assert backends.choose().name == backends.choose("auto").name == "onnxruntime"
    assert backends.choose("onnxruntime").name == "onnxruntime"
    with pytest.raises(InputError, match="TensorRT cannot be imported") as error:
        backends.choose("tensorrt")
    assert error.value.hint.endswith("or use {backend}")


def test_tensorrt_comes_first_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backends.find("tensorrt")), "check_available", lambda _: None)
    assert backends.choose("auto").name == backends.choose("tensorrt").name == "tensorrt"
    assert backends.choose("onnxruntime").name == "onnxruntime"


BEYOND = [family for family in FAMILIES.values() if family.beyond]


def test_families_that_have_a_network_of_their_own() -> None:
    own = {"mpnet": "relative position bias", "modernbert": "rotary positions"}
    disentangled = dict.fromkeys(("deberta", "deberta-v2"), "disentangled attention")
    assert {family.model_type: family.beyond for family in BEYOND} == {**own, **disentangled}
    networks = {family.network for family in FAMILIES.values() if not family.beyond}
    assert networks == {bert, factorised, electra.network}  # BERT's own calls
    for family in FAMILIES.values():
        assert backends.find("tensorrt").runs(family) != bool(family.beyond)
        assert backends.find("onnxruntime").runs(family)


@pytest.mark.parametrize("family", BEYOND, ids=lambda family: family.model_type)
def test_a_backend_that_cannot_run_a_family_is_passed_over(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backends.find("tensorrt")), "check_available", lambda _: None)
    told: list[str] = []
    assert backends.choose("auto", family, told.append).name == "onnxruntime"
    name = family.model_type
    assert told == [f"tensorrt has no {family.beyond} ({name}): ONNX Runtime on the CPU runs it"]
    assert backends.choose("auto", FAMILIES["roberta"], told.append).name == "tensorrt"
    assert backends.choose("onnxruntime", family, told.append).name == "onnxruntime"
    assert len(told) == 1

    # Asked for by name, it refuses it itself.
    assert backends.choose("tensorrt", family).name == "tensorrt"
    config = small_config(model_type=name)
    with pytest.raises(InputError) as error:
        backends.find("tensorrt").check(request_for(PROFILES), config, told.append)
    assert error.value.told(FLAGS) == f"NVIDIA's plugins have no {family.beyond} ({name}): use --backend onnxruntime"


@pytest.mark.usefixtures("no_tensorrt")
def test_nothing_is_told_of_a_backend_that_is_not_here() -> None:
    assert backends.choose("auto", FAMILIES["mpnet"], pytest.fail).name == "onnxruntime"


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_forms_of_activations(act: str) -> None:
    """TensorRT has one of GELU's by the error function, ONNX Runtime the checkpoint's."""
    config = small_config(hidden_act=act)
    own = ACTIVATIONS[act]
    assert backends.find("tensorrt").activation(config) == ("tanh" if own == "erf" else own)
    assert backends.find("onnxruntime").activation(config) == own


# Recognised


def test_recognise_an_onnx_model(saved: Path) -> None:
    assert backends.recognise(saved).name == "onnxruntime"


@pytest.mark.parametrize("magic", [b"ftrt", b"ptrt"])
def test_recognise_a_plan(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "plan"
    path.write_bytes(magic + bytes(100))
    assert backends.recognise(path).name == "tensorrt"


@pytest.mark.parametrize("content", [b"", b"ftr", b"trtf", b"PK\x03\x04", b"# text\n", b"\0\x08", b"{}"])
def test_what_is_not_an_engine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for call in (backends.recognise, backends.open_engine):
        with pytest.raises(InputError, match=f"^{path} is not an engine: it is neither a TensorRT plan nor an ONNX model$"):
            call(path)


def test_an_engine_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as error:
            backends.open_engine(path)
        assert str(error.value) == f"engine {path} cannot be read: {reason}; build one with builder.py"


# Opened


@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
@pytest.mark.parametrize("runtime", [None, "onnxruntime"])
def test_open_engine(saved: Path, built: Built, name: str, runtime: str | None) -> None:
    session, description = backends.open_engine(saved, name, runtime)
    assert isinstance(session, OnnxRuntimeSession)
    assert (session.backend, session.layout.profiles) == ("onnxruntime", PROFILES)
    assert description == replace(built.description, size=len(built.blob), digest=engine_file.digest(built.blob))
    assert run(session, of_lengths([5, 5], small_config())).shape == (10, 2)


def test_open_an_engine_without_its_description(saved: Path) -> None:
    description_path(saved).unlink()
    session, description = backends.open_engine(saved)
    assert (session.backend, description) == ("onnxruntime", None)


def test_a_description_of_something_else(saved: Path) -> None:
    description_path(saved).write_text("{}")
    with pytest.raises(InputError, match=r"small.engine.json does not describe an engine"):
        backends.open_engine(saved)


def test_an_engine_of_another_backend(saved: Path, plan: Path) -> None:
    with pytest.raises(InputError) as error:
        backends.open_engine(saved, "tensorrt")
    assert (
        str(error.value) == f"{saved} is an engine of onnxruntime, not of tensorrt: build one with builder.py --backend tensorrt"
    )
    with pytest.raises(InputError, match=r"plan is an engine of tensorrt, not of onnxruntime: build one"):
        backends.open_engine(plan, "onnxruntime")


@pytest.mark.parametrize("runtime", backends.RUNTIMES)
def test_a_runtime_that_the_backend_has_not(saved: Path, runtime: str) -> None:
    with pytest.raises(InputError) as error:
        backends.open_engine(saved, runtime=runtime)
    assert str(error.value) == (
        f"{saved} is an engine of onnxruntime, which the runtime {runtime} does not run: use inference.py, or perf.py without "
        "--enable-graph and --runtime; or build an engine for tensorrt"
    )


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize("name", ["auto", "tensorrt"])
@pytest.mark.parametrize("runtime", [None, *backends.RUNTIMES])
def test_a_plan_without_tensorrt(plan: Path, name: str, runtime: str | None) -> None:
    with pytest.raises(InputError, match=f"^{plan} is a TensorRT engine, but TensorRT cannot be imported .*pip install"):
        backends.open_engine(plan, name, runtime)


def test_only_its_folder_and_the_registry_name_a_backend() -> None:
    """Elsewhere no string is one and no module of one is imported, but for what compares with its package, or tests it."""
    named = []
    for path in (*ROOT.glob("*.py"), *ROOT.glob("helpers/**/*.py"), *ROOT.glob("scripts/*.py")):
        inside = path.relative_to(ROOT).as_posix()
        if inside.startswith(tuple(f"helpers/backends/{name}" for name in (*backends.NAMES, "__init__"))):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Constant, ast.ImportFrom)):
                words = str(node.value if isinstance(node, ast.Constant) else node.module)
                named += [(inside, node.lineno) for name in backends.NAMES if name in words.split(".")]
    assert {inside for inside, _ in named} <= {f"scripts/{name}.py" for name in ("compare_runtimes", "fuzz", "soak")}, named
