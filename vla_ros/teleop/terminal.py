"""A terminal that gives single keys and keeps one status line at its bottom; restored when the ``with`` block ends."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import termios
import tty
from typing import IO, Any, TextIO

from vla_ros.teleop.jog import split_keys

CONTROL_CHARACTERS = 6
CLEAR_LINE, HIDE_CURSOR, SHOW_CURSOR = "\r\x1b[K", "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """Keys from ``source`` without echo, lines and a status to ``sink``; both are terminals."""

    def __init__(self, source: IO[Any], sink: TextIO) -> None:
        self._input, self._sink = source.fileno(), sink
        self._saved: list[Any] = []
        self._rest = ""
        self._status = ""

    @property
    def width(self) -> int:
        """Characters of the status line: one less than a line, for some terminals wrap a full one."""
        return shutil.get_terminal_size().columns - 1

    def keys(self, timeout_s: float) -> list[str]:
        """The keys pressed since the last call, waiting for one at most ``timeout_s``.

        Raises EOFError where the terminal is gone.
        """
        readable, _, _ = select.select([self._input], [], [], max(timeout_s, 0.0))
        if not readable:
            self._rest = ""  # a lone Escape must not swallow the key after it
            return []
        try:
            data = os.read(self._input, 1024)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        keys, self._rest = split_keys(self._rest + data.decode(errors="replace"))
        return keys

    def say(self, text: str) -> None:
        """Text that stays, above the status line."""
        self._write(f"{CLEAR_LINE}{text}\n{self._status}")

    def show(self, status: str) -> None:
        """Replace the status line."""
        if status != self._status:
            self._status = status
            self._write(f"{CLEAR_LINE}{status}")

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(self._input)
        tty.setcbreak(self._input, termios.TCSANOW)
        # Ctrl-Z would leave a shell with these settings, and a robot without its driver.
        settings = termios.tcgetattr(self._input)
        settings[CONTROL_CHARACTERS][termios.VSUSP] = b"\x00"
        termios.tcsetattr(self._input, termios.TCSANOW, settings)
        self._write(HIDE_CURSOR)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            # Keys not read yet are dropped: the shell must not get them.
            termios.tcsetattr(self._input, termios.TCSAFLUSH, self._saved)
        with contextlib.suppress(OSError):
            self._write(f"{CLEAR_LINE}{SHOW_CURSOR}")

    def _write(self, text: str) -> None:
        self._sink.write(text)
        self._sink.flush()
