"""Troubles that last are said once."""

import time
from collections.abc import Callable, Collection

from worker_exporter import log

_PAUSE = 60.0
"""Seconds until a trouble that comes and goes is said again."""


class Troubles:
    """Each is logged as a warning when it begins, though not more often than once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lasting: set[str] = set()
        self._said_at: dict[str, float] = {}

    def begin(self, text: str) -> None:
        """There is this trouble, now or still."""
        now = self._clock()
        if text in self._lasting or now < self._said_at.get(text, -_PAUSE) + _PAUSE:
            return
        self._lasting.add(text)
        self._said_at = {each: at for each, at in self._said_at.items() if now < at + _PAUSE}
        self._said_at[text] = now
        log.warn(text)

    def end(self, others: Collection[str] = ()) -> bool:
        """All but `others` are over; whether one was said that is."""
        over = self._lasting.difference(others)
        self._lasting -= over
        return bool(over)
