"""An environment where nothing is installed, on top of this one, where all is: what pip is asked for comes to light.

`hide` makes of a folder one that does this to every Python that looks there first: it has a pip of its own.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.running import ROOT

FINDER = """
import json, pathlib, sys

class Finder:
    hidden = set(json.loads(pathlib.Path(__file__).with_name("hidden.json").read_text()))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
"""
PIP = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if type(finder).__name__ != "Finder"]
sys.path.append(ROOT)
from tests.installed import pip
pip(__file__, sys.argv[1:])
"""


def hide(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text(FINDER)
    (folder / "pip.py").write_text(PIP.replace("ROOT", repr(str(ROOT))))
    (folder / "installed.json").write_text("[]")
    show(folder, [])


def pip(module: str, arguments: list[str]) -> None:
    """`pip install -r FILE…`: shows what these files name, and what that needs."""
    files = [file for flag, file in zip(arguments, arguments[1:]) if flag == "-r"]
    wanted = [each for file in files for each in requirements(Path(file).read_text(encoding="utf-8").splitlines())]
    for each in wanted:
        if not each.specifier.contains(version := metadata.version(each.name), prereleases=True):
            sys.exit(f"error: {each} is not installed, but {version}")
    folder = Path(module).parent
    show(folder, [*json.loads((folder / "installed.json").read_text()), *closure(each.name for each in wanted)])
    print("Installed", *files)


def show(folder: Path, installed: list[str]) -> None:
    (folder / "installed.json").write_text(json.dumps(installed))
    every = {name for each in metadata.distributions() for name in modules(each)}
    shown = {name for each in installed for name in modules(metadata.distribution(each))}
    (folder / "hidden.json").write_text(json.dumps(sorted(every - shown - {"pip"})))


def requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """Those that count on this machine."""
    for line in lines:
        if re.match(r"\w", line):
            each = Requirement(line)
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                yield each


def closure(names: Iterable[str]) -> set[str]:
    """Distributions, and all that they need, by name."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += [each.name for each in requirements(metadata.requires(name) or [])]
    return found


def modules(distribution: metadata.Distribution) -> set[str]:
    """The names that it can be imported by."""
    tops = {file.parts[0] for file in distribution.files or []}
    return {name.partition(".")[0] for name in tops if re.fullmatch(r"\w+(\.[\w.-]+\.so|\.so|\.py)?", name)}
