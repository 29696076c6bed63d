"""The real exporter as a subprocess of the demo."""

import ctypes
import functools
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Sequence

from worker_exporter.errors import UserError

START_PATIENCE = 120.0
"""Seconds the exporter may take until it listens."""

STOP_PATIENCE = 5.0
"""Seconds the exporter may take to end before it is killed."""

_LISTENING = re.compile(r'msg="?listening"?.* address=(\S+)')
_PR_SET_PDEATHSIG = 1
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxies of the environment: they cannot reach this machine's loopback."""

_LIBC = ctypes.CDLL(None, use_errno=True)


class Exporter:
    """A running exporter; `url` is where it answers."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start `python -m worker_exporter` and wait until it listens.

        Raises UserError with its own last words when it does not.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker_exporter", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=functools.partial(_die_with, os.getpid()),
        )
        self._last = deque[str](maxlen=5)
        self._address = ""
        self._known = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()
        self._known.wait(START_PATIENCE)
        if not self._address:
            self.stop()
            words = " / ".join(self._last) or f"silent for {START_PATIENCE:g} s"
            raise UserError(f"the exporter did not start: {words}")

    @property
    def url(self) -> str:
        """The address of its HTTP server."""
        return f"http://{self._address}"

    def metrics(self) -> str:
        """One scrape, as text. Raises UserError when it does not answer."""
        try:
            with _OPENER.open(f"{self.url}/metrics", timeout=10) as answer:
                return str(answer.read(), "utf-8")
        except (OSError, http.client.HTTPException) as error:
            words = " / ".join(self._last)
            raise UserError(f"the exporter does not answer: {error}; it said: {words}") from error

    def stop(self) -> None:
        """End it: politely, then not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _follow(self) -> None:
        """Read its log to the end, so that the pipe never fills."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last.append(line.rstrip())
            match = _LISTENING.search(line)
            if match and not self._address:
                self._address = match[1]
                self._known.set()
        self._known.set()


def choose_port(wanted: int) -> int:
    """`wanted`, or a free port of 127.0.0.1 when that one is busy."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("no free port on 127.0.0.1; end what holds them")


def _die_with(parent: int) -> None:
    """In the child: ask the kernel for SIGTERM when the demo dies, even by SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
