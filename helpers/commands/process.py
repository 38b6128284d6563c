"""A command as a process: what it says on its streams, what ends it, and with which status.

It imports nothing that takes time, so that scripts can enter `main` at once and are ended cleanly from there on.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Callable, NoReturn

from helpers.commands.flags import FLAGS
from helpers.errors import InputError, printable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST = 0.9  # seconds that an end by a signal takes

_at_end: list[Callable[[], str]] = []


def main(command: Callable[[list[str]], None]) -> NoReturn:
    """Runs a script.

    The exit status is 0 on success, 2 on bad usage or input, 1 on a failure at run time, and 128 + its number where
    SIGINT (Ctrl-C), SIGTERM or SIGHUP ends it.

    Args:
        command: gets the arguments, and imports what it needs.
    """
    mend_streams()
    with ended_by_signals():
        code = status_of(command)
    raise SystemExit(code)


def status_of(command: Callable[[list[str]], None]) -> int:
    """Runs a command, tells what goes wrong in one line, and gives the exit status."""
    arguments, code = sys.argv[1:], 0
    try:
        command(arguments)
        sys.stdout.flush()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        code = 1
    except Exception as e:
        if "--verbose" in arguments:
            import traceback

            traceback.print_exc()
        complain("error", told(e))
        code = 2 if isinstance(e, InputError) else 1
    try:
        sys.stdout.flush()
    except OSError as e:
        if not isinstance(e, BrokenPipeError) and not code:
            complain("error", f"standard output cannot be written: {e.strerror}")
        code = code or 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python would try again, and exit with 120
    return code


def told(error: Exception) -> str:
    """What an error says to a user."""
    if isinstance(error, InputError):
        return error.told(FLAGS)
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.filename is None and error.strerror:  # files are named
        return f"standard output cannot be written: {error.strerror}"
    return ": ".join(filter(None, [type(error).__name__, str(error)]))


def complain(kind: str, text: str) -> None:
    """One line on standard error."""
    with suppress(OSError):
        print(f"{kind}: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)


# Streams


def mend_streams() -> None:
    """Closed streams lead nowhere, and characters that an encoding lacks are escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # At the lowest free descriptor, its own, which the next file would take otherwise.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# Signals


@contextmanager
def at_end(action: Callable[[], str]) -> Iterator[None]:
    """If a signal ends the process meanwhile, `action` is called first, in another thread; what it returns is printed."""
    _at_end.append(action)
    try:
        yield
    finally:
        _at_end.remove(action)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Signals end the process meanwhile, also where the main thread is in a library's long call.

    Python runs handlers between two steps of the main thread, which such a call is one of. But the number of a signal
    is in the pipe at once, and a thread waits there.
    """
    terminal = Terminal()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # nohup has SIGHUP ignored on purpose; a shell that starts something in its background has SIGINT ignored by habit.
    taken = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in taken}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        for number in iter(lambda: os.read(reader, 1)[0], 0):
            if number in taken:
                end(number, terminal)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


@contextmanager
def at_once() -> Iterator[None]:
    """Signals end the process at once meanwhile, where a library's call keeps Python's lock, which our thread needs.

    To a shell the status is the same, 128 + the signal's number.
    """
    before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminal:
    """The state of the terminal that questions are typed at, to be put back."""

    def __init__(self) -> None:
        self._state = None
        with suppress(ImportError, OSError, ValueError):
            import termios

            self._state = termios.tcgetattr(0) if os.isatty(0) else None

    def restore(self) -> None:
        if self._state:
            import termios

            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._state)


def end(number: int, terminal: Terminal) -> NoReturn:
    """Keeps what is to be kept, removes what is half written, and exits."""
    from helpers import files

    status = 128 + number
    # Whatever takes longer, such as a pipe that nobody reads, must not keep the process.
    limit = threading.Timer(MOST, os._exit, [status])
    limit.daemon = True
    limit.start()
    said = []
    for action in reversed(_at_end):
        with suppress(Exception):
            said.append(action())
    files.abandon()
    terminal.restore()
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    with suppress(Exception):
        print("", *filter(None, said), f"interrupted{by}", sep="\n", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(status)
