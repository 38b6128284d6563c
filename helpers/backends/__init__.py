"""What runs the network: the registry of backends, one folder each."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from helpers import engine_file
from helpers.errors import Busy, InputError

if TYPE_CHECKING:  # what the registry only names is imported by who uses it: a script's --help needs nothing of it
    from helpers.backends.base import Backend, Session
    from helpers.engine_file import Description
    from helpers.families.base import Family

NAMES = ("tensorrt", "onnxruntime")  # the first that is available does the work; the last one always is
CHOICES = ("auto", *NAMES)
RUNTIMES = ("pycuda", "extension")  # of those backends that have several


@functools.cache
def find(name: str) -> Backend:
    """The backend of that name."""
    return importlib.import_module(f"helpers.backends.{name}").BACKEND


def observer() -> Any:
    """The backend that can show every tensor of the network, on any machine (`observe`)."""
    return find(NAMES[-1])


def choose(name: str = "auto", family: Family | None = None, warn: Callable[[str], None] = lambda text: None) -> Backend:
    """Turns `auto` into a backend; for one asked for by name, raises InputError that says what it lacks here.

    A backend that is here, but busy, is not passed over silently: Busy is raised.

    Args:
        family: whose network is to run: `auto` passes over a backend that has not what it is made of, with a warning.
    """
    if name != "auto":
        find(name).check_available()
        return find(name)
    for backend in map(find, NAMES[:-1]):
        try:
            backend.check_available()
        except Busy:
            raise
        except InputError:
            continue
        if family is None or backend.runs(family):
            return backend
        warn(f"{backend.title} has no {family.beyond} ({family.model_type}): {find(NAMES[-1]).title} runs it")
    return find(NAMES[-1])


def recognise(engine: Path) -> Backend:
    """The backend that a file is an engine of, by its content. Raises InputError where it is none."""
    head = engine_file.read_head(engine)
    for backend in map(find, NAMES):
        if backend.recognises(head):
            return backend
    kinds = " nor ".join(find(name).engines for name in NAMES)
    raise InputError(f"{engine} is not an engine: it is neither {kinds}")


def open_engine(
    engine: Path, name: str = "auto", runtime: str | None = None, **options: Any
) -> tuple[Session, Description | None]:
    """Loads an engine, whichever backend it is for; gives its description too, where there is one.

    Args:
        name: the backend that it must be an engine of, or auto.
        runtime: one of the backend's, None for its first.
        options: of the runtime.

    Raises:
        InputError: the file is not an engine, or one of another backend, version or GPU than asked for or here; it is
            damaged, or does not fit the GPU's memory; the backend has no such runtime.
    """
    backend = recognise(engine)
    if name not in ("auto", backend.name):
        raise InputError(f"{engine} is an engine of {backend.name}, not of {name}", f"build one with builder.py --backend {name}")
    if runtime and runtime not in backend.runtimes:
        raise InputError(
            f"{engine} is an engine of {backend.name}, which the runtime {runtime} does not run",
            "use inference.py, or perf.py without --enable-graph and --runtime; or build an engine for tensorrt",
        )
    description = engine_file.read_description(engine)
    if description:
        engine_file.check_content(engine, description)
    return backend.open(engine, description, runtime, **options), description
