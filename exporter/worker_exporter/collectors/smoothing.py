"""Rates for people: exponential moving averages that know how much time went by."""

import math
from collections.abc import Iterator

from worker_exporter.cgroup.members import Worker

_INVISIBLE = 0.005
"""Below this a rate is 0.00 as it is shown."""


class SmoothedRates:
    """The smoothed rate per second of one counter of many workers.

    The weight of a new rate is 1 - exp(-elapsed / time_constant), so that the average means the
    same however often somebody scrapes. A worker has a rate from its second look on.
    """

    def __init__(self, time_constant: float) -> None:
        self._time_constant = time_constant
        self._time: float | None = None
        self._counts: dict[Worker, float] = {}
        self._rates: dict[Worker, float] = {}
        self._restless: dict[Worker, None] = {}

    def look(self, monotonic: float, counts: dict[Worker, float]) -> Iterator[tuple[Worker, float]]:
        """The rates that changed, given the counts that changed since the last look."""
        elapsed = 0.0 if self._time is None else monotonic - self._time
        self._time = monotonic
        weight = -math.expm1(-elapsed / self._time_constant)
        for worker in [each for each in self._restless if each not in counts]:
            yield worker, self._blend(worker, 0.0, weight)
        for worker, count in counts.items():
            last = self._counts.get(worker)
            self._counts[worker] = count
            if last is None or count < last or elapsed <= 0:
                self._rates.pop(worker, None)
                self._restless[worker] = None
            else:
                yield worker, self._blend(worker, (count - last) / elapsed, weight)

    def forget(self, worker: Worker) -> None:
        """Begin anew with `worker`: its counter could not be read, or it is gone."""
        self._counts.pop(worker, None)
        self._rates.pop(worker, None)
        self._restless.pop(worker, None)

    def _blend(self, worker: Worker, rate: float, weight: float) -> float:
        last = self._rates.get(worker)
        blended = rate if last is None else last + weight * (rate - last)
        if blended < _INVISIBLE:
            blended = 0.0
            self._restless.pop(worker, None)
        else:
            self._restless[worker] = None
        self._rates[worker] = blended
        return blended


def two_decimals(rate: float) -> bytes:
    """`rate` as it is shown."""
    return b"%.2f" % rate
