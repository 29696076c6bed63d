"""Workers' output as it comes: from a file, or from a program such as journalctl."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.launch.watch import FileWatch

_PIECE = 65536


class FileLog:
    """The last `lines` lines of the file `path`, and with `follow` what is appended to it, also
    when another file takes its name (the worker's next run). A LogStream.

    Raises FileNotFoundError, or InputOutputError when it cannot be read.
    """

    def __init__(self, path: str, lines: int, follow: bool) -> None:
        if lines < 0:
            raise InputError(f"{lines} lines of a log cannot be read; give 0 or more")
        self._path = path
        self._busy = threading.Lock()
        self._closed = False
        self._file = _open(path)
        try:
            self._offset = _start_of_last(self._file, lines)
            self._watch = FileWatch(path) if follow else None
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> bytes:
        """See LogStream.read."""
        with self._busy:
            while not self._closed:
                piece = self._next()
                if piece:
                    return piece
                if self._watch is None:
                    break
                if not self._switched() and not self._watch.wait():
                    break
            return b""

    def close(self) -> None:
        """See LogStream.close."""
        if self._closed:
            return
        self._closed = True
        if self._watch is not None:
            self._watch.stop()
        with self._busy:
            os.close(self._file)
            if self._watch is not None:
                self._watch.close()

    def _next(self) -> bytes:
        piece = os.pread(self._file, _PIECE, self._offset)
        if not piece and os.fstat(self._file).st_size < self._offset:
            self._offset = 0  # somebody truncated it, as logrotate's copytruncate does
            piece = os.pread(self._file, _PIECE, 0)
        self._offset += len(piece)
        return piece

    def _switched(self) -> bool:
        """Go on with the file that has the name now; False when it is this one, or none yet."""
        assert self._watch is not None
        try:
            if os.stat(self._path).st_ino == os.fstat(self._file).st_ino:
                return False
            self._watch.follow()
            new = _open(self._path)
        except FileNotFoundError:
            return False
        os.close(self._file)
        self._file, self._offset = new, 0
        return True


class CommandLog:
    """What the program `argv` writes to its standard output, with `env` as its environment.

    A LogStream whose read() raises InputOutputError with the program's last words when it fails.
    Raises InputOutputError when it cannot be run.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._name = argv[0]
        self._busy = threading.Lock()
        self._closed = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise InputOutputError(f"cannot run {self._name}: {error.strerror}") from error

    def read(self) -> bytes:
        """See LogStream.read."""
        with self._busy:
            if self._closed:
                return b""
            assert self._process.stdout is not None
            piece = os.read(self._process.stdout.fileno(), _PIECE)
            if not piece and self._process.wait() and not self._closed:
                raise InputOutputError(f"{self._name} failed: {self._last_words()}")
            return piece

    def close(self) -> None:
        """See LogStream.close."""
        if self._closed:
            return
        self._closed = True
        if self._process.poll() is None:
            with suppress(ProcessLookupError):  # the whole group: nothing may hold the pipe open
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with self._busy:
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said no reason")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputOutputError(f"cannot read the log {path}: {error.strerror}") from error


def _start_of_last(file: int, lines: int) -> int:
    """Where the last `lines` lines of the open file begin; a last line may lack its end."""
    position = size = os.fstat(file).st_size
    if not lines or not size:
        return size
    # the last byte may end the last line, and then begins none
    ends = 0
    while position:
        begin = max(0, position - _PIECE)
        piece = os.pread(file, position - begin, begin)
        at = len(piece)
        while (at := piece.rfind(b"\n", 0, at)) >= 0:
            if begin + at == size - 1:
                continue
            ends += 1
            if ends == lines:
                return begin + at + 1
        position = begin
    return 0
