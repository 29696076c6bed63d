"""Token buckets: how fast one peer, and all together, may ask."""

import time
from collections.abc import Callable

from worker_sidecar.api.errors import TooManyRequestsError

_PEERS = 1024
"""Peers whose buckets are remembered; those who have not asked for long are forgotten first."""


class Bucket:
    """Fills with `rate` tokens a second up to `size`; full at first."""

    def __init__(self, rate: float, size: int, now: float) -> None:
        self._rate = rate
        self._size = size
        self._tokens = float(size)
        self._when = now

    def take(self, now: float) -> float:
        """0 and one token less, or the seconds until there is one."""
        self._fill(now)
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def full(self, now: float) -> bool:
        """Whether it is as good as new."""
        self._fill(now)
        return self._tokens >= self._size

    def _fill(self, now: float) -> None:
        self._tokens = min(self._size, self._tokens + (now - self._when) * self._rate)
        self._when = now


class PeerRates:
    """A bucket for each peer."""

    def __init__(self, rate: float, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = size
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def take(self, peer: str) -> None:
        """Count one request of `peer`. Raises TooManyRequestsError."""
        now = self._clock()
        bucket = self._buckets.pop(peer, None)
        if bucket is None:
            self._make_room(now)
            bucket = Bucket(self._rate, self._size, now)
        # Last in the order of the dict: who asked longest ago is first.
        self._buckets[peer] = bucket
        _refuse_if(bucket.take(now), f"{peer} asks")

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < _PEERS:
            return
        for peer in [peer for peer, bucket in self._buckets.items() if bucket.full(now)]:
            del self._buckets[peer]
        if len(self._buckets) >= _PEERS:
            del self._buckets[next(iter(self._buckets))]


class TotalRate:
    """One bucket for all."""

    def __init__(self, rate: float, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = Bucket(rate, size, clock())

    def take(self) -> None:
        """Count one request. Raises TooManyRequestsError."""
        _refuse_if(self._bucket.take(self._clock()), "all clients together ask")


def _refuse_if(wait: float, who: str) -> None:
    if wait > 0:
        raise TooManyRequestsError(f"{who} too often; ask again in {wait:.1f} s", wait)
