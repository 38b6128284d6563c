"""Bars of work that takes long."""

from __future__ import annotations

import re
import time

import pytest

from helpers.commands import bars
from helpers.commands.bars import bar


def test_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """It shows after two seconds, also within a single step, and stays only where that is asked for."""
    for seconds, leave, says in (
        (0.6, True, ""),
        (2.8, False, r"(\rReading:   0%\|.*\| 0/4 \[00:02<\?, \?step/s\])+\r +\r"),
        (2.8, True, r"(\rReading:   0%\|.*\| 0/4 \[00:02<\?, \?step/s\])+\rReading: +75%\|.*\| 3/4 \[00:0[23]<.*\]\n"),
    ):
        with bar("Reading", "step", 4, leave) as shown:
            time.sleep(seconds)
            shown.n = 3
        out, err = capsys.readouterr()
        assert (out, bool(re.fullmatch(says, err))) == ("", True), err


def test_through(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything comes through; a bar shows from where it takes long, at what is done by then, and is closed with it."""
    monkeypatch.setattr(bars, "SLOW", 0.2)
    parts = ["a", "bcd", "ef", "g"]
    assert list(bars.through(parts, 7, " letters", len)) == parts
    assert capsys.readouterr() == ("", "")
    for part, name in zip(bars.through(parts, 7, " letters", len), parts):
        assert part == name
        time.sleep(0.15)
    out, err = capsys.readouterr()
    assert (out, re.findall(r"(\d)/7 \[", err)[0], re.findall(r"(\d)/7 \[", err)[-1]) == ("", "4", "7")
    assert err.endswith("\n")
