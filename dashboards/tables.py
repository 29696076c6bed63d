"""Tables: a row for each set of labels, with the values of several queries side by side."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common, prometheus
from grafana_foundation_sdk.models import dashboard as models

from dashboards import looks
from dashboards.panels import NUMBER, RATIO, Series, now
from dashboards.variables import DATASOURCE

_CELLS: dict[str, object] = {
    "plain": {"type": "auto"},
    "text": {"type": "color-text"},
    "background": {"type": "color-background", "mode": "basic"},
    "gauge": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
}


_IDENTITY = ("Time", "node", "service", "instance", "gpu", "uuid", "mig")
"""Columns that queries bring along, and that are seen only where somebody asks for them."""


_NO_TEXT = models.DynamicConfigValue("noValue", "")
"""For single cells: what a table without rows says is not theirs."""


@dataclass(frozen=True, slots=True)
class Label:
    """A column with the values of a label."""

    name: str
    header: str
    link: builders.DashboardLink | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A column with what a query finds. Without a header it only makes rows and is not shown."""

    header: str
    expression: str
    unit: str = NUMBER
    cell: Literal["plain", "text", "background", "gauge"] = "plain"
    steps: looks.Steps = ()
    texts: looks.Texts | None = None
    decimals: int | None = None
    width: int | None = None
    link: builders.DashboardLink | None = None


def table(
    title: str,
    description: str,
    *columns: Label | Value,
    span: int,
    sort_by: str = "",
    empty: str = "No data",
) -> models.Panel:
    """One row for each set of labels, sorted from the largest of column `sort_by` on.

    All queries must have the same labels, only the first may have more.
    """
    values = [column for column in columns if isinstance(column, Value)]
    panel = _panel(title, description, span, empty)
    for ref_id, value in zip(string.ascii_uppercase, values, strict=False):
        query = now(ref_id, Series(value.expression, ""))
        panel.with_target(query.format(prometheus.PromQueryFormat.TABLE))
    if len(values) > 1:
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(id_val="organize", options=_order(columns))
    )
    for column in columns:
        if column.header:
            panel.override_by_name(
                column.header,
                _of_value(column) if isinstance(column, Value) else _of_label(column),
            )
    if sort_by:
        panel.sort_by([shared.TableSortByFieldState().display_name(sort_by).desc(True)])
    return panel.build()


def matrix(
    title: str,
    description: str,
    row: str,
    column: str,
    expression: str,
    *,
    span: int,
    texts: looks.Texts,
    steps: looks.Steps,
    link: builders.DashboardLink,
    row_link: builders.DashboardLink,
    empty: str,
) -> models.Panel:
    """A table of two labels by each other: a value in each cell, coloured."""
    query = now("A", Series(expression, "")).format(prometheus.PromQueryFormat.TABLE)
    by = {"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "empty"}
    heading = {f"{row}\\{column}": row.capitalize()}
    return (
        _panel(title, description, span, empty)
        .with_target(query)
        .with_transformation(models.DataTransformerConfig(id_val="groupingToMatrix", options=by))
        .with_transformation(
            models.DataTransformerConfig(id_val="organize", options={"renameByName": heading})
        )
        .mappings(looks.texts(texts))
        .thresholds(looks.thresholds(steps, "transparent"))
        .color_scheme(looks.by_value())
        .align(common.FieldTextAlignment.CENTER)
        .cell_options(
            common.TableColoredBackgroundCellOptions(
                mode=common.TableCellBackgroundDisplayMode.BASIC
            )
        )
        .override_by_regexp("/.*/", [_NO_TEXT])
        .data_links([link])
        .override_by_name(
            row.capitalize(),
            [
                _property("unit", "string"),
                _property("custom.cellOptions", _CELLS["plain"]),
                _property("links", [row_link.build()]),
            ],
        )
        .build()
    )


def _panel(title: str, description: str, span: int, empty: str) -> tables.Panel:
    return (
        tables.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .unit(NUMBER)
        .no_value(empty)
        .min_width(50)
        .cell_height(common.TableCellHeight.SM)
        .show_header(True)
    )


def _order(columns: Sequence[Label | Value]) -> dict[str, object]:
    letters = iter(string.ascii_uppercase)
    alone = sum(isinstance(column, Value) for column in columns) == 1
    headers: dict[str, str] = {}
    for column in columns:
        if isinstance(column, Label):
            headers[column.name] = column.header
        else:
            # a query that is alone has no letter
            name = f"Value #{next(letters)}"
            headers |= {name: column.header, **({"Value": column.header} if alone else {})}
    shown = {name: header for name, header in headers.items() if header}
    hidden = [name for name in (*_IDENTITY, *headers) if name not in shown]
    return {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: index for index, name in enumerate(shown)},
        "renameByName": shown,
    }


def _of_label(label: Label) -> list[models.DynamicConfigValue]:
    # a label that looks like a number is none
    found = [_property("unit", "string"), _NO_TEXT, _property("custom.filterable", True)]
    if label.link is not None:
        found.append(_property("links", [label.link.build()]))
    if label.width is not None:
        found.append(_property("custom.width", label.width))
    return found


def _of_value(value: Value) -> list[models.DynamicConfigValue]:
    found = [
        _NO_TEXT,
        _property("unit", value.unit),
        _property("custom.cellOptions", _CELLS[value.cell]),
        _property("color", {"mode": "thresholds"}),
        _property("thresholds", looks.thresholds(value.steps).build()),
    ]
    if value.cell == "gauge":
        found.append(_property("min", 0))
        found += [_property("max", 1)] if value.unit == RATIO else []
    if value.texts is not None:
        found.append(_property("mappings", looks.texts(value.texts)))
    if value.decimals is not None:
        found.append(_property("decimals", value.decimals))
    if value.width is not None:
        found.append(_property("custom.width", value.width))
    if value.link is not None:
        found.append(_property("links", [value.link.build()]))
    return found


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(name, value)
