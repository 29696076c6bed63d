"""Ctrl-C, SIGTERM and a closed terminal as an event that the demo waits for."""

import os
import select
import signal
from types import TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Inside this context the ending signals do not interrupt; they make `wait` return True.

    So nothing that starts or stops a worker is cut in two, and a second Ctrl-C changes nothing.
    """

    def __init__(self) -> None:
        self._receive, self._send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> "Ending":
        self._wakeup = signal.set_wakeup_fd(self._send, warn_on_full_buffer=False)
        for number in _SIGNALS:
            # nohup ignores SIGHUP: then it stays ignored
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._receive)
        os.close(self._send)

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most `seconds`. True when it has come."""
        poll = select.poll()
        poll.register(self._receive, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))
