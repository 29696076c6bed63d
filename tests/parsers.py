"""prometheus_client's two parsers, with their types."""

from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families


def read_text(answer: str) -> Iterator[Metric]:
    """The families of an answer in text 0.0.4. Raises ValueError."""
    yield from text_string_to_metric_families(answer)


def read_openmetrics(answer: str) -> Iterator[Metric]:
    """The families of an answer in OpenMetrics 1.0. Raises ValueError."""
    yield from openmetrics.text_string_to_metric_families(answer)  # type: ignore[no-untyped-call]


READERS: dict[str, Callable[[str], Iterator[Metric]]] = {
    "text": read_text,
    "openmetrics": read_openmetrics,
}
