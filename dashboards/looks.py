"""Colours, thresholds and texts for values: what is good is green, and what is wrong is red."""

from collections.abc import Mapping

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

GOOD = "green"
NOTICE = "blue"
WARNING = "orange"
BAD = "red"
PLAIN = "text"
QUIET = "gray"

Steps = tuple[tuple[float, str], ...]
"""From each value on a colour; below the first it is the colour that comes with the steps."""

ANY_IS_BAD: Steps = ((1, BAD),)
ANY_IS_WARNING: Steps = ((1, WARNING),)
FULL: Steps = ((0.75, WARNING), (0.9, BAD))
HOT: Steps = ((75, WARNING), (85, BAD))
SLOW: Steps = ((1, WARNING), (5, BAD))
FOREIGN: Steps = ((2**30, WARNING),)
WAITING: Steps = ((0.1, WARNING), (0.5, BAD))
"""For CPU and memory; memory is coloured from where its alert begins."""
WAITING_FOR_IO: Steps = ((0.5, WARNING), (0.8, BAD))

# FULL, HOT, SLOW, FOREIGN and WAITING_FOR_IO end where the alerts on memory limits, temperature,
# scrapes, unattributed GPU memory and IO begin.

Texts = Mapping[int, tuple[str, str]]
"""A text and a colour for a value."""

ANSWERS: Texts = {1: ("yes", GOOD), 0: ("no", BAD)}
RUNS: Texts = {
    1: ("running", GOOD),
    0: ("down", BAD),
    -1: ("stopped on purpose", QUIET),
    -2: ("ended", QUIET),
}
READY: Texts = {1: ("ready", GOOD), 0: ("not ready", BAD)}
FROZEN: Texts = {1: ("frozen", NOTICE), 0: ("not frozen", GOOD)}
DECLARED: Texts = {1: ("declared", GOOD), 0: ("stopped on purpose", QUIET)}
PROCESS: Texts = {1: ("running", GOOD), 0: ("no process", BAD)}
UNIT: Texts = {
    1: ("active", GOOD),
    2: ("activating", WARNING),
    3: ("deactivating", WARNING),
    4: ("failed", BAD),
    5: ("inactive", QUIET),
}
SEVERITIES: Texts = {
    3: ("critical", BAD),
    2: ("warning", WARNING),
    1: ("info", NOTICE),
    0: ("other", QUIET),
}
SUCCESS: Texts = {1: ("complete", GOOD), 0: ("failing", BAD)}


def thresholds(steps: Steps, base: str = GOOD) -> builders.ThresholdsConfig:
    """`base`, and from each step's value on its colour."""
    return (
        builders.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps(
            [
                models.Threshold(color=base),
                *(models.Threshold(value=value, color=color) for value, color in steps),
            ]
        )
    )


def by_value() -> builders.FieldColor:
    """Coloured by the thresholds."""
    return builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)


def always(color: str) -> builders.FieldColor:
    """Always in one colour, except where a text has its own."""
    return builders.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(color)


def nothing(text: str) -> models.ValueMapping:
    """`text` in gray where there is no value: what is not known is not well."""
    return models.SpecialValueMap(
        models.DashboardSpecialValueMapOptions(
            match=models.SpecialValueMatch.NULL_AND_NAN,
            result=models.ValueMappingResult(text=text, color=QUIET, index=100),
        )
    )


def texts(values: Texts) -> list[models.ValueMapping]:
    """The mapping of values to their texts."""
    return [
        models.ValueMap(
            {
                str(value): models.ValueMappingResult(text=text, color=color, index=index)
                for index, (value, (text, color)) in enumerate(values.items())
            }
        )
    ]
