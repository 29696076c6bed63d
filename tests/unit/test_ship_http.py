"""Requests of `ship`: credentials, TLS, patience, and each failure in one line of words."""

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.standin import Reply, Request, StandIn, page, replied, standing_in
from tests.tools import require

from worker_sidecar.errors import InputError, SidecarError
from worker_sidecar.ship.access import Access
from worker_sidecar.ship.errors import ConflictError, DeniedError, ServerError, WrongServerError
from worker_sidecar.ship.http import Server

SECRET = "a-secret-of-the-tests"


class Clock:
    """Time that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def standin() -> Iterator[StandIn]:
    def answer(request: Request) -> Reply:
        return replied(200, {"path": request.path})

    with standing_in(answer) as server:
        yield server


def asking(url: str, access: Access | None = None, clock: Clock | None = None) -> Server:
    clock = clock or Clock()
    return Server(url, access or Access(), clock=clock, sleep=clock.sleep)


def test_a_url_may_have_a_path(standin: StandIn) -> None:
    for url in (f"{standin.url}/grafana/", f"{standin.url}/grafana"):
        assert asking(url).get("/api/health").json() == {"path": "/grafana/api/health"}


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (Access(token=SECRET), f"Bearer {SECRET}"),
        (
            Access(user="jörg", password=SECRET),
            "Basic " + base64.b64encode(f"jörg:{SECRET}".encode()).decode(),
        ),
        (Access(), None),
    ],
)
def test_credentials_are_ours_whatever_a_netrc_says(
    standin: StandIn,
    access: Access,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    asking(standin.url, access).get("/")
    assert standin.requests[0].headers.get("Authorization") == expected


def test_a_secret_is_in_no_representation() -> None:
    assert SECRET not in repr(Access(token=SECRET)) + repr(Access(user="u", password=SECRET))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("grafana.example.org", "must be of the form https://host[:port][/path]"),
        ("ftp://host", "must be of the form https://host[:port][/path]"),
        ("http://", "must be of the form https://host[:port][/path]"),
        ("http://host:port", "must be of the form https://host[:port][/path]"),
        ("http://host/?orgId=1", "without ? and #"),
        ("http://host/#a", "without ? and #"),
    ],
)
def test_what_is_no_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        asking(url)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"http://admin:{SECRET}@host", "must not hold credentials"),
        (f"admin:{SECRET}@host", "must be of the form"),
        (f"https:/admin:{SECRET}@host", "must be of the form"),
        (f"https://host/?token={SECRET}", "without ? and #"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        asking(url)
    assert said in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.example"])
def test_a_host_that_can_be_none(url: str) -> None:
    with pytest.raises(ServerError, match="no host has such a name"):
        asking(url).get("/")


@pytest.mark.parametrize("proxy", [f"http://u:{SECRET}@host:999999", f"http://u:{SECRET}@[b:1"])
def test_a_proxy_that_can_be_none(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ServerError, match="or the environment's proxy is no URL") as raised:
        asking("http://grafana.example").get("/")
    assert SECRET not in str(raised.value)


def test_a_proxy_is_not_asked_for_the_loopback(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", standin.url)
    monkeypatch.delenv("no_proxy", raising=False)
    asking("http://grafana.example").get("/by-the-proxy")
    assert standin.requests[0].headers["Host"] == "grafana.example"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for host in ("127.0.0.1", "localhost"):
        assert asking(f"http://{host}:{standin.port}").get("/x").json() == {"path": "/x"}


def test_a_header_that_http_cannot_carry(standin: StandIn) -> None:
    for tenant in ("日本", "a\nb"):
        with pytest.raises(InputError, match="the header X-Scope-OrgID takes"):
            Server(standin.url, Access(), {"X-Scope-OrgID": tenant})


def test_who_gave_no_credentials_is_not_told_of_these(standin: StandIn) -> None:
    standin.refuse(replied(403, {"message": "no access"}))
    with pytest.raises(DeniedError, match=r"not permitted without credentials \(403: no access\)"):
        asking(standin.url).get("/api")


def test_a_query_is_not_repeated(standin: StandIn) -> None:
    standin.refuse(replied(400, {}))
    with pytest.raises(ServerError) as raised:
        asking(standin.url).get("/api/search", {"query": "T" * 5000})
    assert str(raised.value) == f"GET {standin.url}/api/search: answered 400"


def test_credentials_that_are_open_to_the_network_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    asking("http://grafana.example.org", Access(token=SECRET))
    [record] = caplog.records
    assert record.getMessage() == "the credentials go over the network unencrypted"
    caplog.clear()
    asking("http://localhost", Access(token=SECRET))
    asking("http://127.0.0.1:3000", Access(token=SECRET))
    asking("https://grafana.example.org", Access(token=SECRET))
    asking("http://grafana.example.org")
    assert not caplog.records


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (replied(401, {"message": "Invalid API key"}), DeniedError, "not accepted (401: Invalid"),
        (
            replied(403, {"message": "no access"}),
            DeniedError,
            "not permitted with these credentials (403: no access)",
        ),
        (page(404), WrongServerError, "there is no such thing (404)"),
        (replied(412, {"message": "version"}), ConflictError, "(412: version)"),
        (replied(409, {"message": "exists"}), ConflictError, "(409: exists)"),
        (Reply(400, b"bad\nbody", "text/plain"), ServerError, "answered 400: bad body"),
        (replied(418, ["a", "list"]), ServerError, "answered 418"),
        (
            Reply(301, headers={"Location": "https://127.0.0.1/x"}),
            WrongServerError,
            "redirects to https; the URL must begin with https://",
        ),
        (
            Reply(302, headers={"Location": "/login?state=hidden"}),
            WrongServerError,
            "redirects to /login; name the URL behind it, or a login stands before it",
        ),
        (
            Reply(400, b"Client sent an HTTP request to an HTTPS server.\n", "text/plain"),
            WrongServerError,
            "this port speaks TLS; the URL must begin with https://",
        ),
        (
            Reply(400, b"The plain HTTP request was sent to HTTPS port", "text/html"),
            WrongServerError,
            "this port speaks TLS; the URL must begin with https://",
        ),
    ],
)
def test_each_refusal_has_its_words(
    standin: StandIn, reply: Reply, kind: type[SidecarError], said: str
) -> None:
    standin.refuse(reply)
    with pytest.raises(kind) as raised:
        asking(standin.url, Access(token=SECRET)).get("/api")
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"GET {standin.url}/api: ")
    assert said in line
    assert "hidden" not in line
    assert SECRET not in line


def test_without_credentials_they_are_asked_for(standin: StandIn) -> None:
    standin.refuse(replied(401, {"message": "Unauthorized"}))
    with pytest.raises(DeniedError, match="credentials are asked for"):
        asking(standin.url).get("/api")


def test_a_redirect_gets_no_credentials(standin: StandIn) -> None:
    with standing_in(lambda _: replied(200, {})) as other:
        standin.refuse(Reply(302, headers={"Location": f"{other.url}/api"}))
        with pytest.raises(WrongServerError):
            asking(standin.url, Access(token=SECRET)).get("/api")
        assert not other.requests


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (page(), "answered with a web page, not JSON; a login stands before it, or the URL lacks"),
        (Reply(200, b"{", "application/json"), "answered with application/json, not JSON"),
        (replied(200, [1]), "answered with application/json, not a JSON object"),
    ],
)
def test_what_is_not_json_is_told(standin: StandIn, reply: Reply, said: str) -> None:
    standin.refuse(reply)
    with pytest.raises(WrongServerError) as raised:
        asking(standin.url).get("/api").json()
    assert said in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
def test_passing_trouble_is_waited_out(standin: StandIn, status: int) -> None:
    standin.refuse(Reply(status), times=3)
    clock = Clock()
    assert asking(standin.url, clock=clock).get("/api").status == 200
    assert clock.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412])
def test_other_trouble_is_not(standin: StandIn, status: int) -> None:
    standin.refuse(replied(status, {}))
    with pytest.raises(SidecarError):
        asking(standin.url).get("/api")
    assert len(standin.requests) == 1


def test_a_server_says_how_long_to_wait(standin: StandIn) -> None:
    standin.refuse(Reply(429, headers={"Retry-After": "7"}))
    standin.refuse(Reply(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    clock = Clock()
    asking(standin.url, clock=clock).get("/api")
    assert clock.slept == [7.0, 1.0]


def test_patience_has_an_end(standin: StandIn) -> None:
    standin.refuse(replied(503, {"message": "starting"}), times=100)
    clock = Clock()
    with pytest.raises(ServerError, match=r"answered 503: starting"):
        asking(standin.url, Access(patience=20.0), clock).get("/api")
    assert clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_nobody_waits_longer_than_asked(standin: StandIn) -> None:
    standin.refuse(Reply(429, headers={"Retry-After": "3600"}))
    clock = Clock()
    with pytest.raises(ServerError, match="answered 429"):
        asking(standin.url, clock=clock).get("/api")
    assert clock.slept == []


def test_a_server_that_comes_up_is_waited_for(standin: StandIn) -> None:
    port, answer = standin.port, replied(200, {"up": True})
    standin.close()
    with pytest.raises(ServerError, match="connection refused; nobody listens there"):
        asking(f"http://127.0.0.1:{port}", Access(patience=1.0)).get("/api")

    with standing_in(lambda _: answer) as late:
        clock = Clock()
        server = asking(f"http://127.0.0.1:{port}", clock=clock)

        def come_up(seconds: float) -> None:
            clock.sleep(seconds)
            server.url = late.url

        server._sleep = come_up
        assert server.get("/api").json() == {"up": True}
        assert clock.slept == [0.5]


def test_a_server_that_never_answers(standin: StandIn) -> None:
    standin.refuse(Reply(-1))
    with pytest.raises(ServerError, match="no answer in time"):
        asking(standin.url, Access(timeout=0.2, patience=0)).get("/api")


def test_a_name_that_nobody_knows_is_not_waited_for() -> None:
    clock = Clock()
    with pytest.raises(ServerError, match="the host's name is not known"):
        asking("http://host.invalid", clock=clock).get("/api")
    assert clock.slept == []


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in (("host", "IP:127.0.0.1"), ("other", "DNS:other.example.org")):
        subprocess.run(
            [
                *(require("openssl"), "req", "-x509", "-newkey", "ec"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
                *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"),
                *("-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


def context(folder: Path, name: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(f"{folder}/{name}.crt", f"{folder}/{name}.key")
    return made


def test_a_ca_of_our_own(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "other.crt"))
    with standing_in(lambda _: replied(200, {}), context(certificates, "host")) as server:
        ca = Access(ca_file=str(certificates / "host.crt"))
        assert asking(server.url, ca).get("/").status == 200
        assert asking(server.url, Access(insecure=True)).get("/").status == 200


def test_an_unknown_ca_is_named_once_and_at_once(certificates: Path) -> None:
    with standing_in(lambda _: replied(200, {}), context(certificates, "host")) as server:
        clock = Clock()
        with pytest.raises(ServerError, match="CA that is not known here; name it by --ca-file"):
            asking(server.url, clock=clock).get("/")
        assert clock.slept == []


def test_a_certificate_of_another_host(certificates: Path) -> None:
    ca = Access(ca_file=str(certificates / "other.crt"))
    with (
        standing_in(lambda _: replied(200, {}), context(certificates, "other")) as server,
        pytest.raises(ServerError, match="the server's certificate is for another host"),
    ):
        asking(server.url, ca).get("/")


def test_tls_where_there_is_none(standin: StandIn) -> None:
    with pytest.raises(ServerError, match="does not speak TLS; the URL must begin with http://"):
        asking(standin.url.replace("http:", "https:"), Access(patience=0)).get("/")


def test_a_ca_file_that_is_none(certificates: Path) -> None:
    with pytest.raises(InputError, match="holds no certificate in PEM"):
        asking("https://host", Access(ca_file=str(certificates / "host.key")))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        asking("https://host", Access(ca_file="/nonexistent/ca.crt"))


def test_insecure_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    asking("https://host", Access(insecure=True))
    assert any("--insecure" in record.getMessage() for record in caplog.records)
