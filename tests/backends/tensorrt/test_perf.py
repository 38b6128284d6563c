"""build/perf as a process: what it writes where, and what ends it. What it times is in test_extension.py."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.layouts import Profile
from tests.backends.tensorrt.building import perf
from tests.running import PATIENCE, listing
from tests.tensorrt_engines import WIDE, Engines

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)


@contextmanager
def started(built: Path, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([str(built / "perf"), *map(str, arguments)], stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


# Without a GPU


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symlink", "hard link"])
@pytest.mark.parametrize("read", ["qa.engine", "qa.engine.json"])
def test_nothing_is_written_over_what_is_read(built: Path, tmp_path: Path, read: str, link: Any) -> None:
    for name in ("qa.engine", "qa.engine.json"):
        (tmp_path / name).write_bytes(b"ftrt")
    output = tmp_path / (read if link is None else "other")
    if link:
        link(tmp_path / read, output)
    before = listing(tmp_path)
    done = perf(built, "-e", tmp_path / "qa.engine", "--json", output)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: output {output} is read as well, and would be overwritten: name another file\n"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("output", ["none/figures.json", "", "."], ids=["no folder", "no name", "a folder"])
def test_what_cannot_be_written_is_refused_before_the_work(built: Path, tmp_path: Path, output: str) -> None:
    done = perf(built, "-e", tmp_path / "none", "--json", f"{tmp_path}/{output}")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: cannot write [^\n]+: name a file in a folder that is there and writable\n", done.stderr)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device"), ("| true", "Broken pipe")],
    ids=["closed", "full", "broken pipe"],
)
def test_standard_output_that_takes_nothing(built: Path, redirection: str, reason: str) -> None:
    # Of a pipe whose reader may not have ended yet, only the second write fails for sure.
    script = f'set -o pipefail; (sleep 0.5; exec "{built}/perf" -h) {redirection}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (1, f"error: standard output cannot be written: {reason}\n")


def test_closed_streams_are_not_taken_by_files(built: Path, tmp_path: Path) -> None:
    """With descriptor 1 closed, the next file that is opened would get it, and what is printed."""
    output = tmp_path / "figures.json"
    script = f'"{built}/perf" -e "{tmp_path}/none" --json "{output}" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", script], timeout=PATIENCE)
    assert done.returncode == 2
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("engine", ["/dev/zero", "pipe", "folder", "\x1b[31mred"])
def test_engines_that_are_no_files(built: Path, tmp_path: Path, engine: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    done = perf(built, "-e", tmp_path / engine)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n\x1b]+ cannot be used: [^\n\x1b]+\n", done.stderr), done.stderr


@SIGNALS
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignored by the parent"])
def test_signals_end_it_within_a_second(built: Path, number: signal.Signals, ignored: bool) -> None:
    """Also while it waits for the reader of its output. A parent that ignores SIGHUP, as nohup does, means that."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))

    def ignore() -> None:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)

    with started(built, "-h", stdout=writer, preexec_fn=ignore) as process:
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        if ignored and number == signal.SIGHUP:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        else:
            assert process.wait(1) == 128 + number
            by = "" if number == signal.SIGINT else f" by {number.name}"
            assert process.stderr and process.stderr.read().decode() == f"\ninterrupted{by}\n"
    os.close(reader)
    os.close(writer)


# With a GPU


@pytest.fixture(scope="module")
def engine(engines: Engines) -> Path:
    return engines.build(WIDE, [Profile(4, 64)], fp16=True)


@pytest.mark.gpu
@SIGNALS
@pytest.mark.parametrize("flags", [[], ["--enable_graph", "--end-to-end"]], ids=["engine", "graphs, end to end"])
def test_rows_that_are_done_outlive_a_signal(
    built: Path, engine: Path, tmp_path: Path, number: signal.Signals, flags: list[str]
) -> None:
    output = tmp_path / "figures.json"
    output.write_text("before")
    output.chmod(0o640)
    long = ["-e", engine, "-s", 64, "-b", 1, "-b", 4, "-d", 3, "--json", output, *flags]
    with started(built, *long, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        printed, end = b"", time.monotonic() + PATIENCE
        while b"99th" not in printed:
            assert time.monotonic() < end and process.poll() is None
            if select.select([process.stdout], [], [], 1)[0]:
                printed += os.read(process.stdout.fileno(), 4096)
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
        assert time.monotonic() - sent < 1
    assert [row["batch_size"] for row in json.loads(output.read_text())["results"]] == [1]
    assert output.stat().st_mode & 0o777 == 0o640
    assert [*listing(tmp_path)] == ["figures.json"]


@pytest.mark.gpu
def test_figures_into_streams_and_through_links(built: Path, engine: Path, tmp_path: Path) -> None:
    short = ["-e", engine, "-s", 64, "-b", 1, "-b", 4, "-i", 3, "-w", 0, "--json"]
    done = perf(built, *short, "/dev/stdout")
    assert (done.returncode, done.stderr) == (0, "")
    text, figures = done.stdout[: done.stdout.index("\n{")], json.loads(done.stdout[done.stdout.index("\n{") :])
    assert text.count("Running 3 iterations") == len(figures["results"]) == 2
    assert perf(built, *short, "/dev/null").returncode == 0
    assert not Path("/dev/null").is_file()
    assert perf(built, *short, "/dev/full").returncode == 2

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/there").write_text("before")
    (tmp_path / "link").symlink_to("folder/there")
    assert perf(built, *short, tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert len(json.loads((tmp_path / "folder/there").read_text())["results"]) == 2


@pytest.mark.gpu
def test_iterations_are_bounded_by_default(built: Path, engine: Path) -> None:
    done = perf(built, "-e", engine, "-s", 64)
    assert "Running 200 iterations" in done.stdout
    done = perf(built, "-e", engine, "-s", 64, "-i", 7, "-w", 0)
    assert "Running 7 iterations" in done.stdout
    start = time.monotonic()
    assert "Running " in perf(built, "-e", engine, "-s", 64, "-i", 1, "-d", 2).stdout
    assert time.monotonic() - start > 2


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("description", "precision"),
    [('{"precision": "float16"}', "float16"), ('{"precision": "a\\u001b[31m"}', None), ('{"precision": [1, 2', None), ("", None)],
    ids=["ours", "escapes", "damaged", "empty"],
)
def test_descriptions_are_not_trusted(built: Path, engine: Path, tmp_path: Path, description: str, precision: str | None) -> None:
    (tmp_path / "qa").write_bytes(engine.read_bytes())
    (tmp_path / "qa.json").write_text(description)
    done = perf(built, "-e", tmp_path / "qa", "-s", 64, "-i", 3, "--json", tmp_path / "figures")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "figures").read_text())["precision"] == precision
