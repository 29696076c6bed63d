"""Log lines: one an event, whatever is in it."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_exporter import log


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.root
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def lines(style: str, level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, style, stream)
    return stream


def test_logfmt() -> None:
    stream = lines("logfmt")
    log.info("listening", address="127.0.0.1:43211", tls=False, none=None, share=0.5, n=3)
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info"
        r' msg="listening" address=127\.0\.0\.1:43211 tls=false none=null share=0\.5 n=3\n',
        stream.getvalue(),
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain/path.slice", "plain/path.slice"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("a\nb\tc", r'"a\nb\tc"'),
        (r"llm\x2d1", r'"llm\\x2d1"'),
        ("größe", "größe"),
        ("line\u2028sep", r'"line\u2028sep"'),
        ("\x1b[31m\x7f", r'"\u001b[31m\u007f"'),
        ("bad\udcffbyte", r'"bad\udcffbyte"'),
    ],
)
def test_logfmt_quotes_what_needs_it(value: str, written: str) -> None:
    assert log.logfmt({"key": value}) == f"key={written}"


def test_json() -> None:
    stream = lines("json")
    log.warn('say "x"\n', path="a\udcffb", tls=True, none=None, other={1}.__class__)
    event = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert list(event) == ["ts", "level", "msg", "path", "tls", "none", "other"]
    assert (event["level"], event["msg"], event["tls"]) == ("warn", 'say "x"\n', True)


@given(st.dictionaries(st.sampled_from("abcd"), st.text()), st.sampled_from(["logfmt", "json"]))
def test_an_event_is_one_line(fields: dict[str, str], style: str) -> None:
    line = log.FORMATS[style]({"msg": "x", **fields})
    assert len(line.splitlines()) == 1
    if style == "json":
        assert json.loads(line) == {"msg": "x", **fields}


def test_levels() -> None:
    for level, shown in (("debug", 4), ("info", 3), ("warn", 2), ("error", 1)):
        stream = lines("logfmt", level)
        for tell in (log.debug, log.info, log.warn, log.error):
            tell("x")
        assert stream.getvalue().count("\n") == shown
    assert " level=error " in stream.getvalue()


def test_an_error_tells_what_and_where_in_one_line() -> None:
    stream = lines("logfmt")
    try:
        int("no\nnumber")
    except ValueError as error:
        log.error("broken", **log.describe(error))
        logging.getLogger("some.library").exception("also")
    first, second = stream.getvalue().splitlines()
    assert 'err="ValueError: invalid literal for int()' in first
    assert re.search(r'where="test_log\.py:\d+ test_an_error', first)
    assert 'msg="also" err="ValueError' in second


def test_libraries_do_not_chat() -> None:
    stream = lines("logfmt", "debug")
    logging.getLogger("asyncio").debug("Using selector: EpollSelector")
    logging.getLogger("aiohttp.access").info("GET /")
    assert stream.getvalue() == ""


def test_a_log_that_cannot_be_written_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log.setup("info", "logfmt", Broken())
    log.info("x")
    assert capsys.readouterr() == ("", "")
