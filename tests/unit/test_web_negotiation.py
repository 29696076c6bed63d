"""Accept and Accept-Encoding, as clients in the field send them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_exporter.web.negotiation import Format, choose_format, wants_gzip

OM = Format.OPENMETRICS
TEXT = Format.TEXT

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_2 = (
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        (BROWSER, TEXT),
        (PROMETHEUS_3, OM),
        (PROMETHEUS_PROTOBUF, OM),
        # It would get a version it did not name.
        (PROMETHEUS_2, TEXT),
        ("application/openmetrics-text", OM),
        ("application/openmetrics-text, text/plain", OM),
        ("text/plain, application/openmetrics-text", TEXT),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.9", TEXT),
        ("text/plain;q=0.2, application/openmetrics-text;q=0.9", OM),
        ("text/plain;version=1.0.0, application/openmetrics-text;version=1.0.0;q=0.1", OM),
        ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", TEXT),
        ('Application/OpenMetrics-Text; Version="1.0.0"', OM),
        ("application/openmetrics-text;version=1.0.0;escaping=values;new=thing", OM),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0, */*;q=0.1", TEXT),
        ("text/plain;version=0.0.4;q=0, */*;q=0.1", OM),
        ("application/*", OM),
        ("text/*, application/*;q=0.9", TEXT),
        ("application/openmetrics-text, */*", OM),
        ("*/*;q=0.9, application/openmetrics-text;q=0.1", TEXT),
        ("image/png", TEXT),
        ("application/openmetrics-text;q=nonsense, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=7", TEXT),
        (",;,q=1,;;", TEXT),
    ],
)
def test_format(accept: str, expected: Format) -> None:
    assert choose_format(accept) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("identity, gzip", True),
        ("identity;q=1, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=1.0", True),
        ("identity, *;q=0.1", False),
        ("deflate, br", False),
        ("gzip;q=x", False),
    ],
)
def test_gzip(accept_encoding: str, expected: bool) -> None:
    assert wants_gzip(accept_encoding) is expected


@given(st.text(alphabet=' ,;=*/q.01"atexplingzo-', max_size=80))
def test_no_header_is_too_odd(header: str) -> None:
    assert choose_format(header) in Format
    assert wants_gzip(header) in (True, False)


def test_content_types_are_exact() -> None:
    assert TEXT.value == "text/plain; version=0.0.4; charset=utf-8"
    assert OM.value == "application/openmetrics-text; version=1.0.0; charset=utf-8"
