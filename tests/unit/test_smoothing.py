"""Smoothed rates against the formula, written down once more."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.smoothing import SmoothedRates, two_decimals

CONSTANT = 10.0

steps = st.lists(st.tuples(st.floats(0.1, 60), st.floats(0.01, 1e6)), min_size=1, max_size=20)


def worker(name: str) -> Worker:
    return Worker(name, f"/{name}", 1, None, Identity(name, "0"))


LLM = worker("llm")
TTS = worker("tts")


@given(steps)
def test_the_formula(steps: list[tuple[float, float]]) -> None:
    rates = SmoothedRates(CONSTANT)
    assert list(rates.look(0.0, {LLM: 0.0})) == []
    time = count = 0.0
    expected: float | None = None
    for elapsed, rise in steps:
        time, count = time + elapsed, count + rise
        rate = rise / elapsed
        kept = math.exp(-elapsed / CONSTANT)
        expected = rate if expected is None else kept * expected + (1 - kept) * rate
        [(who, found)] = rates.look(time, {LLM: count})
        assert who is LLM
        assert found == pytest.approx(expected, rel=1e-6, abs=0.005)


@pytest.mark.parametrize(
    "times",
    [
        [float(second) for second in range(121)],
        [5.0 * step for step in range(25)],
        [0.0, 0.3, 7.0, 7.5, 31.0, 32.0, 90.0, 120.0],
    ],
    ids=["1 s", "5 s", "irregular"],
)
def test_a_steady_load_has_one_rate_however_often_somebody_looks(times: list[float]) -> None:
    rates = SmoothedRates(CONSTANT)
    seen = [rate for time in times for _, rate in rates.look(time, {LLM: 1.5 * time})]
    assert len(seen) == len(times) - 1
    assert seen == pytest.approx([1.5] * len(seen))


@pytest.mark.parametrize("interval", [1.0, 2.0, 5.0])
def test_a_step_is_followed_as_fast_however_often_somebody_looks(interval: float) -> None:
    rates = SmoothedRates(CONSTANT)
    list(rates.look(-interval, {LLM: 0.0}))
    list(rates.look(0.0, {LLM: 0.0}))
    found = 0.0
    for step in range(1, round(20 / interval) + 1):
        [(_, found)] = rates.look(step * interval, {LLM: step * interval})
    assert found == pytest.approx(1 - math.exp(-20 / CONSTANT))


def test_the_second_look_gives_a_figure_even_when_nothing_moved() -> None:
    rates = SmoothedRates(CONSTANT)
    assert list(rates.look(0.0, {LLM: 7.0})) == []
    assert list(rates.look(5.0, {})) == [(LLM, 0.0)]


def test_idle_decays_to_nothing_and_is_then_left_alone() -> None:
    rates = SmoothedRates(CONSTANT)
    list(rates.look(0.0, {LLM: 0.0}))
    list(rates.look(1.0, {LLM: 1.0}))
    shown = []
    for second in range(2, 200):
        shown += [two_decimals(rate) for _, rate in rates.look(float(second), {})]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == b"0.90"
    assert shown[-1] == b"0.00"
    assert shown.count(b"0.00") == 1


def test_after_idleness_only_the_time_since_the_last_look_counts() -> None:
    rates = SmoothedRates(CONSTANT)
    for second in range(5):
        list(rates.look(float(second), {LLM: 0.0} if second == 0 else {}))
    [(_, rate)] = rates.look(5.0, {LLM: 1.0})
    assert rate == pytest.approx(1 - math.exp(-1 / CONSTANT))


def test_a_counter_that_goes_backwards_begins_anew() -> None:
    rates = SmoothedRates(CONSTANT)
    list(rates.look(0.0, {LLM: 5.0}))
    list(rates.look(1.0, {LLM: 9.0}))
    assert all(rate >= 0 for _, rate in rates.look(2.0, {LLM: 1.0}))
    assert dict(rates.look(3.0, {LLM: 2.0})) == pytest.approx({LLM: 1.0})


def test_workers_do_not_mix_and_can_be_forgotten() -> None:
    rates = SmoothedRates(CONSTANT)
    list(rates.look(0.0, {LLM: 0.0, TTS: 0.0}))
    assert dict(rates.look(2.0, {LLM: 2.0, TTS: 8.0})) == {LLM: 1.0, TTS: 4.0}
    rates.forget(LLM)
    assert dict(rates.look(3.0, {TTS: 12.0})).keys() == {TTS}
    assert dict(rates.look(4.0, {LLM: 99.0, TTS: 16.0})) == pytest.approx({TTS: 4.0})


def test_two_looks_at_one_moment_divide_by_nothing() -> None:
    rates = SmoothedRates(CONSTANT)
    list(rates.look(1.0, {LLM: 0.0}))
    assert list(rates.look(1.0, {LLM: 5.0})) == []
