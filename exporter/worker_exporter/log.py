"""The log: one line an event on standard error, as logfmt or as JSON."""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_LOGGER = logging.getLogger("worker_exporter")


def debug(msg: str, /, **fields: object) -> None:
    """Log what only somebody hunting a fault wants to see."""
    _LOGGER.debug(msg, extra={"fields": fields})


def info(msg: str, /, **fields: object) -> None:
    """Log what an operator expects to see."""
    _LOGGER.info(msg, extra={"fields": fields})


def warn(msg: str, /, **fields: object) -> None:
    """Log what an operator should look at some day."""
    _LOGGER.warning(msg, extra={"fields": fields})


def error(msg: str, /, **fields: object) -> None:
    """Log what went wrong."""
    _LOGGER.error(msg, extra={"fields": fields})


def describe(error: BaseException) -> dict[str, str]:
    """The fields `err` and `where` (file:line function, innermost) that tell of `error`."""
    fields = {"err": f"{type(error).__name__}: {error}"}
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        last = frames[-1]
        fields["where"] = f"{last.filename.rpartition('/')[2]}:{last.lineno} {last.name}"
    return fields


def setup(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send every log record from `level` up to `stream` (standard error) as logfmt or json.

    Raises KeyError for a level outside LEVELS or a style outside FORMATS.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_Lines(FORMATS[style]))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(LEVELS[level])
    # The libraries' own chatter is about them, not about workers.
    for library in ("aiohttp", "asyncio"):
        logging.getLogger(library).setLevel(max(LEVELS[level], logging.WARNING))
    # A log that cannot be written must not print a traceback in its place.
    logging.raiseExceptions = False


def logfmt(fields: Mapping[str, object]) -> str:
    """`fields` as key=value, quoted where they need it; msg always is, so that it can be found."""
    return " ".join(f"{key}={_logfmt_value(key, value)}" for key, value in fields.items())


def as_json(fields: Mapping[str, object]) -> str:
    """`fields` as one JSON object in ASCII; what JSON has no form for becomes a string."""
    return json.dumps(fields, default=str)


FORMATS: dict[str, Callable[[Mapping[str, object]], str]] = {"logfmt": logfmt, "json": as_json}


class _Lines(logging.Formatter):
    """Turns records into single lines: ts, level, msg, then the fields."""

    def __init__(self, render: Callable[[Mapping[str, object]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            fields |= describe(record.exc_info[1])
        return self._render(fields)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _logfmt_value(key: str, value: object) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    text = str(value)
    plain = text.isprintable()
    if key != "msg" and text and plain and not set(' ="\\') & set(text):
        return text
    return json.dumps(text, ensure_ascii=not plain).replace("\x7f", "\\u007f")
