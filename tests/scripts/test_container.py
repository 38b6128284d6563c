"""The Docker image and the scripts around it, without a Docker daemon; the linters where they are installed."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.running import ROOT
from tests.shells import add_tool, refused, run

# Logs what it is asked to do. DAEMON, IMAGE and CODE are exit codes; RUNTIMES are the daemon's.
DOCKER = """#!/usr/bin/env bash
case "$1 ${2-}" in
  "info "*) [[ $# == 1 ]] || echo "$RUNTIMES"; exit "${DAEMON:-0}" ;;
  "image inspect") [[ $3 == bert-qa ]] && exit "${IMAGE:-0}" ;;
  *) printf '%q ' docker "$@" >>"$LOG"; exit "${CODE:-0}" ;;
esac
"""


def instructions() -> list[tuple[str, list[str]]]:
    """The Dockerfile's instructions, in order, each with its words."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.strip()]
    return [(words[0], words[1:]) for words in lines]


def words_of(name: str) -> list[str]:
    return [word for instruction, words in instructions() if instruction == name for word in words]


def sent() -> set[str]:
    """The files that docker build sees: .dockerignore leaves out everything but what it names with an exclamation mark."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and all(line.startswith("!") for line in lines[1:])
    return {path.name for path in ROOT.iterdir() if any(fnmatch(path.name, line[1:]) for line in lines[1:])}


def test_what_the_image_copies_is_there() -> None:
    copied = set()
    for instruction, words in instructions():
        if instruction == "COPY":
            for pattern in words[:-1]:
                found = {path.name for path in ROOT.glob(pattern)}
                assert found and found <= sent(), pattern
                copied |= found
    assert copied == sent()
    assert {"CMakeLists.txt", "infer_c", "requirements.txt"} <= copied


def test_the_image_installs_every_requirement() -> None:
    words = words_of("RUN")
    wanted = [words[i + 1] for i, word in enumerate(words) if word == "-r"]
    installed: set[str] = set()
    while wanted:
        installed.add(name := wanted.pop())
        wanted += re.findall(r"^-r (\S+)", (ROOT / name).read_text(), re.MULTILINE)
    assert installed == {path.name for path in ROOT.glob("requirements*.txt")}


def test_the_image_keeps_its_own_tensorrt(tmp_path: Path) -> None:
    """The wheel of pip would be another version than the headers; everything else of requirements-gpu.txt is wanted."""
    words = words_of("RUN")
    command = words[words.index("sed") : words.index("&&", words.index("sed"))]
    shutil.copy(ROOT / "requirements-gpu.txt", tmp_path)
    before = (tmp_path / "requirements-gpu.txt").read_text().splitlines()
    subprocess.run(command, cwd=tmp_path, check=True)
    after = (tmp_path / "requirements-gpu.txt").read_text().splitlines()
    assert set(before) - set(after) == {line for line in before if line.startswith("tensorrt")} != set()
    assert any(line.startswith("pycuda") for line in after)


def test_the_image_is_not_run_as_root() -> None:
    names = [instruction for instruction, _ in instructions()]
    assert "USER" not in names[: max(i for i, name in enumerate(names) if name == "RUN")]
    assert words_of("USER") == ["$USER_ID:$GROUP_ID"]
    assert words_of("ARG") == ["USER_ID=1000", "GROUP_ID=1000"]


def test_build(project: Path, tools: Path) -> None:
    add_tool(tools, "docker", DOCKER)
    log = tools.parent / "docker.log"
    if os.geteuid() == 0:
        os.chown(project, 1234, 567)
    owner = project.stat()
    expected = f"docker build --tag bert-qa --build-arg USER_ID={owner.st_uid} --build-arg GROUP_ID={owner.st_gid} ."
    dry = run(project, "build", "--dry-run", path=tools)
    assert (dry.returncode, dry.stdout, log.exists()) == (0, f"{expected}\n", False)
    assert run(project, "build", path=tools, LOG=str(log)).returncode == 0
    assert log.read_text().strip() == expected
    assert run(project, "build", path=tools, LOG=str(log), CODE="17").returncode == 17
    # The names are those of the Dockerfile.
    arguments = {word.split("=")[0] for word in words_of("ARG")}
    assert {word.split("=")[0] for word in shlex.split(expected) if "=" in word} == arguments


def test_launch(project: Path, tools: Path) -> None:
    add_tool(tools, "docker", DOCKER)
    add_tool(tools, "nvidia-ctk", "#!/usr/bin/env bash\n")
    log = tools.parent / "docker.log"
    command = ["python3", "inference.py", "-p", "two words", "--dry-run", "--help"]
    dry = run(project, "launch", "--dry-run", *command, path=tools)
    folders, container = dry.stdout.splitlines()
    assert (dry.returncode, log.exists(), (project / "build").exists()) == (0, False, False)
    assert folders == "mkdir -p build .venv"

    assert run(project, "launch", *command, path=tools, LOG=str(log)).returncode == 0
    assert (project / "build").is_dir() and (project / ".venv").is_dir()
    words = shlex.split(log.read_text())
    assert words == shlex.split(container)
    workdir = words_of("WORKDIR")[0]
    assert words[-len(command) - 1 :] == ["bert-qa", *command]
    options = words[2 : -len(command) - 1]
    assert options == [
        *["--rm", "--interactive", "--gpus", "all", "--shm-size", "1g", "--publish", "8888:8888"],
        *["--volume", f"{project}:{workdir}", "--volume", f"{workdir}/build", "--volume", f"{workdir}/.venv"],
    ]
    assert run(project, "launch", "false", path=tools, LOG=str(log), CODE="17").returncode == 17


def test_launch_asks_for_a_terminal_where_there_is_one(project: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        command = ["bash", "scripts/launch.sh", "--dry-run"]
        subprocess.run(command, cwd=project, stdin=theirs, stdout=theirs, check=True)
        assert "--interactive --tty --gpus all" in os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("script", ["build", "launch"])
def test_without_docker(project: Path, tools: Path, script: str) -> None:
    refused(run(project, script, path=tools), 1, "docker is not on the PATH: install it, https://docs.docker.com/engine/install")
    add_tool(tools, "docker", DOCKER)
    message = "docker's daemon does not answer: is it running, and may you use it (group docker)?"
    refused(run(project, script, path=tools, DAEMON="1"), 1, message)


def test_launch_says_what_else_is_missing(project: Path, tools: Path) -> None:
    add_tool(tools, "docker", DOCKER)
    log = tools.parent / "docker.log"
    done = run(project, "launch", path=tools, LOG=str(log), RUNTIMES='{"runc":{}}')
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: the NVIDIA Container Toolkit, which gives containers the GPU, is not installed: https://"
    )
    missing = run(project, "launch", path=tools, LOG=str(log), RUNTIMES='{"nvidia":{},"runc":{}}', IMAGE="1")
    refused(missing, 1, "there is no image bert-qa yet: bash scripts/build.sh")
    assert not log.exists() and not (project / "build").exists()
    assert run(project, "launch", path=tools, LOG=str(log), RUNTIMES='{"nvidia":{},"runc":{}}').returncode == 0


def test_other_arguments(project: Path) -> None:
    refused(run(project, "build", "--pull"), 2, "unknown argument --pull: only --dry-run and --help are known")
    message = "unknown argument --pull: only --dry-run and --help may stand before the command"
    refused(run(project, "launch", "--pull"), 2, message)


# Linters


def linter(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def clean(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint() -> None:
    clean(linter("hadolint"), "Dockerfile")


def test_shellcheck() -> None:
    scripts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("*.sh"))
    assert "scripts/launch.sh" in scripts
    clean(linter("shellcheck"), "--external-sources", ".ci/run", *scripts)
