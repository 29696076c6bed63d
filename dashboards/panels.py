"""Panels with the defaults of the house: what is absent is a gap, and a limit is a dashed line."""

import string
from collections.abc import Mapping
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from dashboards import looks, promql
from dashboards.variables import DATASOURCE

NUMBER = "short"
RATIO = "percentunit"
BYTES = "bytes"
BYTES_PER_SECOND = "binBps"
OPERATIONS_PER_SECOND = "iops"
EVENTS_PER_SECOND = "cps"
SECONDS = "s"

_BAR = "1m"
"""The shortest step of bars: four scrapes, as $__rate_interval has."""


@dataclass(frozen=True, slots=True)
class Series:
    """A query of a panel, and what the legend calls its series.

    `dashed` is the colour of a line that is a limit, `color` that of any other; `texts` says what
    values mean, and `steps` colours one figure of several.
    """

    expression: str
    legend: str
    dashed: str = ""
    color: str = ""
    texts: looks.Texts | None = None
    steps: looks.Steps = ()


def limit(expression: str, legend: str = "limit") -> Series:
    """What cannot be passed: a red dashed line."""
    return Series(expression, legend, looks.BAD)


def mark(expression: str, legend: str) -> Series:
    """What should not be passed: an orange dashed line."""
    return Series(expression, legend, looks.WARNING)


def alert_above(name: str) -> Series:
    """The threshold of an alert, by the middle of the name of its series."""
    return mark(promql.threshold(name), "alert above")


def graph(
    title: str,
    description: str,
    unit: str,
    *series: Series,
    span: int,
    stacked: bool = False,
    bars: bool = False,
    axis: str = "",
    maximum: float | None = None,
    colors: Mapping[str, str] | None = None,
    empty: str = "No data",
    link: builders.DashboardLink | None = None,
) -> models.Panel:
    """Lines over time, from 0 on; `stacked` into a sum, or `bars` for what happens now and then.

    The first series leads to `link`. `empty` stands there when nothing is known at all.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .unit(unit)
        .min(0)
        .no_value(empty)
        .axis_label(axis)
        .line_width(1)
        .fill_opacity(100 if bars else 40 if stacked else 10)
        .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
        .span_nulls(False)
        .show_points(common.VisibilityMode.AUTO)
        .stacking(
            shared.StackingConfig()
            .group("A")
            .mode(common.StackingMode.NORMAL if stacked or bars else common.StackingMode.NONE)
        )
        .legend(
            shared.VizLegendOptions()
            .show_legend(True)
            .display_mode(
                common.LegendDisplayMode.TABLE
                if any("{{" in each.legend for each in series)
                else common.LegendDisplayMode.LIST
            )
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["max"] if bars else ["lastNotNull", "max"])
        )
        .tooltip(
            shared.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if bars:
        # each looks back on four scrapes: in shorter steps one event would be many bars
        panel.interval(_BAR).decimals(0)
    if maximum is not None:
        panel.max(maximum)
    if link is not None:
        panel.override_by_query("A", [models.DynamicConfigValue("links", [link.build()])])
    for ref_id, each in zip(string.ascii_uppercase, series, strict=False):
        panel.with_target(over_time(ref_id, each))
        if each.dashed:
            panel.override_by_query(ref_id, _dashed(each.dashed))
        if each.color:
            panel.override_by_query(ref_id, [_fixed(each.color)])
    for legend, color in (colors or {}).items():
        panel.override_by_name(legend, [_fixed(color)])
    return panel.build()


def number(
    title: str,
    description: str,
    unit: str,
    *series: Series,
    span: int,
    steps: looks.Steps = (),
    decimals: int | None = None,
    texts: looks.Texts | None = None,
    empty: str = "-",
    link: builders.DashboardLink | None = None,
) -> models.Panel:
    """What holds now, as large as fits; `empty` is what stands there when nothing is known.

    Where it is an alarm (it has `steps`) the whole panel takes the colour, and is green when well.
    """
    alarm = bool(steps) or texts is not None
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .unit(unit)
        .no_value(empty)
        .mappings([*looks.texts(texts or {}), looks.nothing(empty)])
        .thresholds(looks.thresholds(steps, looks.GOOD if steps else looks.PLAIN))
        .color_scheme(looks.by_value())
        .color_mode(
            common.BigValueColorMode.BACKGROUND_SOLID if alarm else common.BigValueColorMode.VALUE
        )
        .graph_mode(common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.CENTER)
        .text_mode(
            common.BigValueTextMode.VALUE_AND_NAME
            if len(series) > 1
            else common.BigValueTextMode.VALUE
        )
        .reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if link is not None:
        panel.data_links([link])
    for ref_id, each in zip(string.ascii_uppercase, series, strict=False):
        panel.with_target(now(ref_id, each))
        if each.steps:
            own = models.DynamicConfigValue("thresholds", looks.thresholds(each.steps).build())
            panel.override_by_query(ref_id, [own])
    return panel.build()


def timeline(
    title: str,
    description: str,
    *series: Series,
    span: int,
    per_page: int | None = None,
    empty: str = "No data",
) -> models.Panel:
    """States over time, a line for each, in pages if there can be many; each has its own texts."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(span)
        .unit(NUMBER)
        .no_value(empty)
        # coloured by thresholds it would show their ranges in place of the texts
        .color_scheme(looks.always(looks.QUIET))
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .span_nulls(False)
        .legend(
            shared.VizLegendOptions()
            .show_legend(False)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(shared.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE))
    )
    if per_page is None:
        panel.disable_pagination()
    else:
        panel.per_page(per_page)
    for ref_id, each in zip(string.ascii_uppercase, series, strict=False):
        panel.with_target(over_time(ref_id, each))
        assert each.texts is not None
        mappings = looks.texts(each.texts)
        panel.override_by_query(ref_id, [models.DynamicConfigValue("mappings", mappings)])
    return panel.build()


def over_time(ref_id: str, series: Series) -> prometheus.Dataquery:
    """A query for the whole time range."""
    return _query(ref_id, series).range()


def now(ref_id: str, series: Series) -> prometheus.Dataquery:
    """A query for the end of the time range alone."""
    return _query(ref_id, series).instant()


def _query(ref_id: str, series: Series) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .ref_id(ref_id)
        .expr(series.expression)
        .legend_format(series.legend)
    )


def _dashed(color: str) -> list[models.DynamicConfigValue]:
    return [
        models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
        models.DynamicConfigValue("custom.lineWidth", 2),
        models.DynamicConfigValue("custom.fillOpacity", 0),
        models.DynamicConfigValue("custom.drawStyle", "line"),
        models.DynamicConfigValue("custom.stacking", {"group": "dashed", "mode": "none"}),
        _fixed(color),
    ]


def _fixed(color: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
