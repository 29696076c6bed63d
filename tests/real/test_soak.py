"""A minute of the soak: 1,000 working workers scraped every second by a real Prometheus."""

import dataclasses

import pytest
from bench.soak import Soak, soak
from tests.tools import require

GOOD = Soak(
    workers=1000,
    kind="real cgroups",
    scrapes=60,
    failed=0,
    late=6,
    incomplete=0,
    without_units=0,
    duration=0.1,
    longest_duration=0.2,
    memory_first=60.0,
    memory_last=60.5,
    descriptors_first=8030,
    descriptors_last=8031,
    complaints=(),
)


def test_a_minute_of_scrapes_is_whole_and_flat(undisturbed: None) -> None:
    result = soak(require("prometheus"), workers=1000, seconds=60)
    assert result.problems() == [], result
    assert result.scrapes + result.late >= 60
    assert result.workers == 1000


@pytest.mark.parametrize(
    "wrong",
    [
        {"failed": 1},
        {"late": 7},
        {"incomplete": 1},
        {"without_units": 31},
        {"memory_last": 63.0},
        {"descriptors_last": 8040},
        {"complaints": ("level=warn",)},
    ],
)
def test_every_fault_is_told(wrong: dict[str, object]) -> None:
    assert GOOD.problems() == []
    assert len(dataclasses.replace(GOOD, **wrong).problems()) == 1  # type: ignore[arg-type]
