"""The committed dashboards are those that the code builds."""

from pathlib import Path

import pytest
from dashboards import files
from dashboards.grid import Row, Section, laid_out
from dashboards.panels import Series, number

COMMITTED = Path(__file__).parents[2] / "dashboards/json"


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    committed = {path.name: path.read_text() for path in COMMITTED.glob("*.json")}
    stale = {
        name
        for name in committed.keys() | files().keys()
        if committed.get(name) != files().get(name)
    }
    assert not stale, f"stale: {', '.join(sorted(stale))}: run `make dashboards`, and read the diff"


def test_building_twice_is_the_same() -> None:
    assert files() == files()


def test_a_row_that_is_not_full_is_refused() -> None:
    panel = number("A", "B.", "short", Series("1", ""), span=23)
    with pytest.raises(ValueError, match="Heading: a row has 23 columns, not 24"):
        laid_out([Section("Heading", [Row(4, [panel])])])
