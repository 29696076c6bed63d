"""Where panels lie: sections of rows that fill Grafana's 24 columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard as models

COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, `height` units of 30 pixels high."""

    height: int
    panels: Sequence[models.Panel]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a heading; without a title there is none. What is rarely needed is collapsed."""

    title: str
    rows: Sequence[Row]
    collapsed: bool = False


def laid_out(sections: Sequence[Section]) -> list[models.Panel | models.RowPanel]:
    """The panels with their places and ids. Raises ValueError for a row that is not filled."""
    placed: list[models.Panel | models.RowPanel] = []
    ids = iter(range(1, 1000))
    y = 0
    for section in sections:
        heading = None
        if section.title:
            heading = models.RowPanel(
                title=section.title,
                collapsed=section.collapsed,
                id_val=next(ids),
                grid_pos=models.GridPos(x=0, y=y, w=COLUMNS, h=1),
            )
            placed.append(heading)
            y += 1
        panels = list(_of_section(section, y, ids))
        y += sum(row.height for row in section.rows)
        if heading is not None and section.collapsed:
            heading.panels = panels
        else:
            placed += panels
    return placed
    return placed


def _of_section(section: Section, y: int, ids: Iterator[int]) -> Iterator[models.Panel]:
    for row in section.rows:
        x = 0
        for panel in row.panels:
            assert panel.grid_pos is not None
            panel.id_val = next(ids)
            panel.grid_pos.x, panel.grid_pos.y, panel.grid_pos.h = x, y, row.height
            x += panel.grid_pos.w
            yield panel
        if x != COLUMNS:
            raise ValueError(f"{section.title}: a row has {x} columns, not {COLUMNS}")
        y += row.height
