"""Token buckets, by a clock of the test's own."""

import pytest

from worker_sidecar.api import rate
from worker_sidecar.api.errors import TooManyRequestsError
from worker_sidecar.api.rate import PeerRates, TotalRate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(rates: PeerRates, peer: str, tries: int) -> int:
    """How many of `tries` requests are let in."""
    count = 0
    for _ in range(tries):
        try:
            rates.take(peer)
            count += 1
        except TooManyRequestsError:
            continue
    return count


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    rates = PeerRates(2.0, 5, clock)
    assert taken(rates, "a", 20) == 5
    clock.now += 1.5
    assert taken(rates, "a", 20) == 3
    clock.now += 3600
    assert taken(rates, "a", 20) == 5


def test_peers_have_buckets_of_their_own() -> None:
    rates = PeerRates(1.0, 2, Clock())
    assert [taken(rates, peer, 9) for peer in ("a", "b", "a")] == [2, 2, 0]


def test_who_is_refused_hears_how_long_to_wait() -> None:
    clock = Clock()
    total = TotalRate(4.0, 1, clock)
    total.take()
    with pytest.raises(TooManyRequestsError) as caught:
        total.take()
    assert caught.value.wait == pytest.approx(0.25)
    clock.now += caught.value.wait
    total.take()


def test_invented_peers_cost_no_memory_and_let_nobody_in_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate, "_PEERS", 10)
    clock = Clock()
    rates = PeerRates(1.0, 2, clock)
    taken(rates, "idle", 1)
    clock.now += 10
    taken(rates, "busy", 2)
    for number in range(8):
        taken(rates, f"new {number}", 1)
    # The idle one's bucket is full again: it was forgotten for the ninth, not the busy one's.
    taken(rates, "new 8", 1)
    assert len(rates._buckets) <= 10
    assert taken(rates, "busy", 1) == 0
    for number in range(1000):
        taken(rates, f"flood {number}", 1)
    assert len(rates._buckets) <= 10
