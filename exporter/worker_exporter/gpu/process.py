"""The helper process, seen from the process that started it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl

from worker_exporter.gpu.wire import Answer, decode

_CHUNK = 1 << 20
_LONGEST = 1 << 24
"""Bytes of an answer; 1 << 16 processes are a quarter of it."""

_DEATH = 0.2
"""Seconds for a process that closed its end of the pipe to be a zombie."""


class HelperError(Exception):
    """The process ended, or said what is no answer; the text says how."""


class Helper:
    """A process that asks the drivers, one question at a time.

    `held` are descriptors that it keeps open until it ends. Nothing here blocks, whatever the
    process does. Raises OSError when it cannot be started.
    """

    def __init__(self, sysfs: str, held: Collection[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker_exporter.gpu.helper", os.path.abspath(sysfs)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=tuple(held),
            # It runs the code of this process, wherever that came from: a relative PYTHONPATH, a
            # zipapp, a wrapper that sets sys.path.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        for pipe in (self._questions, self._answers):
            os.set_blocking(pipe.fileno(), False)
        # An answer that nobody takes in time must not hold the process: it would seem to hang.
        with suppress(OSError):
            fcntl(self._answers, F_SETPIPE_SZ, _CHUNK)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._received = bytearray()
        self.asked_at: float | None = None
        """When the question was asked (monotonic, in seconds) that has no answer yet."""
        self.has_answered = False

    @property
    def pid(self) -> int:
        """Its PID."""
        return self._process.pid

    def ask(self) -> None:
        """Ask for a reading; the last question must have been answered. Raises HelperError."""
        try:
            os.write(self._questions.fileno(), b"\n")
        except OSError:
            raise HelperError(self._end()) from None
        self.asked_at = time.monotonic()

    def answer(self, seconds: float) -> Answer | None:
        """The answer to the question; None: there is none within `seconds`. Raises HelperError."""
        deadline = time.monotonic() + seconds
        while not self._received.endswith(b"\n"):
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            self._receive()
        line = bytes(self._received)
        self._received.clear()
        try:
            answer = decode(line)
        except ValueError:
            raise HelperError("the process that asks says what is no answer") from None
        self.asked_at = None
        self.has_answered = True
        return answer

    def kill(self) -> None:
        """Kill it; one that sits in the kernel uninterruptibly goes on for now."""
        self._process.kill()
        self._questions.close()
        self._answers.close()

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does within `seconds`; its zombie is gone then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def _receive(self) -> None:
        received = os.read(self._answers.fileno(), _CHUNK)
        if not received:
            raise HelperError(self._end())
        self._received += received
        if len(self._received) > _LONGEST:
            raise HelperError(f"the process that asks says more than {_LONGEST} bytes")

    def _end(self) -> str:
        """How it ended."""
        if not self.has_ended(_DEATH):
            return "the process that asks is out of order"
        code = self._process.returncode
        if code >= 0:
            return f"the process that asks ended with exit code {code}"
        return f"the process that asks was ended by signal {-code} ({signal.strsignal(-code)})"
