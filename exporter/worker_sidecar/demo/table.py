"""The demo's table: one line per worker, redrawn in place on a terminal."""

import shutil
from collections.abc import Iterable, Sequence
from typing import TextIO

from worker_sidecar.demo.figures import Row

_COLUMNS = {
    "SERVICE": 7,
    "INSTANCE": 8,
    "CPU %": 5,
    "RSS": 7,
    "READ/s": 7,
    "WRITE/s": 7,
    "WAITING": 9,
    "PROCS": 5,
    "UP": 6,
}
"""Each column's narrowest width: most figures fit, so that the columns stand still."""

_LEGEND = "WAITING: % of time held up by cpu/memory/io"


def render(rows: Iterable[Row], title: str) -> list[str]:
    """The table's lines below `title`; 80 columns wide while the names are short."""
    cells = [tuple(_COLUMNS), *(_cells(row) for row in rows)]
    widths = [
        max(narrowest, *map(len, column))
        for narrowest, column in zip(_COLUMNS.values(), zip(*cells, strict=True), strict=True)
    ]
    return [f"{title}; {_LEGEND}", *(_line(line, widths) for line in cells)]


class Screen:
    """Where the table appears: in place on a terminal, one below the other elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0

    def show(self, lines: Sequence[str]) -> None:
        """Draw `lines`, over those drawn before when this is a terminal."""
        if self._stream.isatty():
            columns = shutil.get_terminal_size().columns
            # a wrapped line would make two, and the next redraw would miss the first
            lines = [line[: columns - 1] for line in lines]
            if self._drawn:
                self._stream.write(f"\x1b[{self._drawn}F\x1b[J")
        else:
            lines = [*lines, ""]
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()
        self._drawn = len(lines)


def size(count: float | None) -> str:
    """Bytes for people: three digits and a binary unit."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds for people: `42s`, `3m07s`, `2h05m`, `4d11h`."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _cells(row: Row) -> tuple[str, ...]:
    waiting = (row.waiting_cpu_percent, row.waiting_memory_percent, row.waiting_io_percent)
    return (
        row.service,
        row.instance,
        _number(row.cpu_percent, 1),
        size(row.rss_bytes),
        size(row.read_bytes),
        size(row.written_bytes),
        "/".join(_number(value, 0) for value in waiting),
        _number(row.processes, 0),
        duration(row.uptime_seconds),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right."""
    names = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join((*names, *figures)).rstrip()
