"""How long to leave somebody alone who does not answer."""

from collections.abc import Callable

_FIRST = 1.0
_LONGEST = 60.0


class Backoff:
    """A wait of 1 s after a failure, of twice as long after each further one, of 60 s at most."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wait = self._over = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be tried again."""
        return self._clock() >= self._over

    def failed(self) -> None:
        """Wait from now on."""
        self._wait = min(max(2 * self._wait, _FIRST), _LONGEST)
        self._over = self._clock() + self._wait

    def succeeded(self) -> None:
        """There is nothing to wait for, and the next failure is a first one again."""
        self._wait = self._over = 0.0
