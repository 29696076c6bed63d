"""Ctrl-C and SIGTERM end a run at its next step, so that what it started is cleaned up undisturbed.

A handler that raises is no help: what it raises is lost when Python is just in a callback of its
own, as in a fork.
"""

import signal
from queue import Empty, SimpleQueue

_arrived: SimpleQueue[int] = SimpleQueue()  # may be put to in the middle of a get


def heed_signals() -> None:
    """From now on the first of the signals has `pause` raise; it does so once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: _arrived.put(number))


def pause(seconds: float = 0.0) -> None:
    """Do nothing for so long. Raises KeyboardInterrupt as soon as a signal has come."""
    try:
        _arrived.get(timeout=max(0.0, seconds))
    except Empty:
        return
    raise KeyboardInterrupt
