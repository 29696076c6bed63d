"""What an agent sends: Prometheus's remote write 1.0, by hand, so that it can be of any time."""

import struct
import urllib.request
from collections.abc import Mapping, Sequence

PATH = "api/v1/write"
"""Where both Prometheus and VictoriaMetrics take it."""

_STALE = 0x7FF0000000000002
"""The NaN by which Prometheus marks the end of a series."""

Samples = Sequence[tuple[float, float | None]]
"""Times in seconds and values; the value None ends the series."""


def write_samples(url: str, series: Sequence[tuple[Mapping[str, str], Samples]]) -> None:
    """Send the samples of each series, named by its labels, to the storage at `url`."""
    message = b"".join(_field(1, _time_series(*each)) for each in series)
    request = urllib.request.Request(
        f"{url}/{PATH}",
        _snappy(message),
        {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204


def _time_series(labels: Mapping[str, str], samples: Samples) -> bytes:
    named = (
        _field(1, _field(1, name.encode()) + _field(2, value.encode()))
        for name, value in sorted(labels.items())
    )
    return b"".join(named) + b"".join(_field(2, _sample(at, value)) for at, value in samples)


def _sample(at: float, value: float | None) -> bytes:
    number = struct.pack("<Q", _STALE) if value is None else struct.pack("<d", value)
    return b"\x09" + number + b"\x10" + _varint(int(at * 1000))


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field with a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _snappy(content: bytes) -> bytes:
    """A snappy block that only has literals."""
    out = _varint(len(content))
    for start in range(0, len(content), 0x10000):
        chunk = content[start : start + 0x10000]
        out += bytes([61 << 2]) + struct.pack("<H", len(chunk) - 1) + chunk
    return out
