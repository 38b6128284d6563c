"""Progress in Python: warnings go to the log, and nothing is printed."""

from __future__ import annotations

import logging

import pytest

from helpers.progress import Progress


def test_warnings_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Fields by their bare names, as in errors; a text is not a format."""
    Progress().warn("100 % of {sparse} is {} for %s")
    assert caplog.record_tuples == [("helpers", logging.WARNING, "100 % of sparse is {} for %s")]


def test_everything_else_is_silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("2 of 3")
    with progress.clock("Building"):
        pass
    assert list(progress.bar([3, 1, 2], "Calibrating", "window")) == [3, 1, 2]
    assert list(progress.bar([], "Calibrating", "window")) == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_clock_stops_no_error() -> None:
    with pytest.raises(KeyError), Progress().clock("Building"):
        raise KeyError
