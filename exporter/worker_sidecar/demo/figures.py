"""From the exporter's text to one row of figures per worker."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, str]
"""Service and instance."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape: when (seconds of a monotonic clock and of the epoch), and sums per worker."""

    at: float
    now: float
    values: Mapping[str, Mapping[Key, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one worker; None for what is unknown."""

    service: str
    instance: str
    cpu_percent: float | None
    rss_bytes: float | None
    read_bytes: float | None
    written_bytes: float | None
    waiting_cpu_percent: float | None
    waiting_memory_percent: float | None
    waiting_io_percent: float | None
    processes: float | None
    uptime_seconds: float | None


def read(text: str, at: float, now: float) -> Sample:
    """The worker families of an exposition, summed over labels other than service and instance."""
    values: dict[str, dict[Key, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if "service" in labels and "instance" in labels:
                key = (labels["service"], labels["instance"])
                column = values.setdefault(sample.name, {})
                column[key] = column.get(key, 0.0) + sample.value
    return Sample(at, now, values)


def rows(before: Sample | None, after: Sample) -> Iterator[Row]:
    """One row per worker that `after` shows, rates over the time since `before`."""
    for key in sorted(after.values.get("worker_up", {})):

        def gauge(name: str, key: Key = key) -> float | None:
            return after.values.get(name, {}).get(key)

        def rate(name: str, key: Key = key) -> float | None:
            if before is None or after.at <= before.at:
                return None
            first = before.values.get(name, {}).get(key)
            last = after.values.get(name, {}).get(key)
            if first is None or last is None or last < first:
                return None
            return (last - first) / (after.at - before.at)

        started = gauge("worker_start_time_seconds")
        yield Row(
            service=key[0],
            instance=key[1],
            cpu_percent=_percent(rate("worker_cpu_seconds_total")),
            rss_bytes=gauge("worker_memory_rss_bytes"),
            read_bytes=rate("worker_io_read_bytes_total"),
            written_bytes=rate("worker_io_written_bytes_total"),
            waiting_cpu_percent=_percent(rate("worker_pressure_cpu_waiting_seconds_total")),
            waiting_memory_percent=_percent(rate("worker_pressure_memory_waiting_seconds_total")),
            waiting_io_percent=_percent(rate("worker_pressure_io_waiting_seconds_total")),
            processes=gauge("worker_processes"),
            uptime_seconds=None if started is None else after.now - started,
        )


def _percent(seconds_per_second: float | None) -> float | None:
    return None if seconds_per_second is None else seconds_per_second * 100
