"""Addresses and the sockets made of them."""

import socket

import pytest

from worker_exporter.errors import UserError
from worker_exporter.web.listen import Address, address_of, open_sockets, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":10390", Address("", 10390)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("[::1]:1", Address("::1", 1)),
        ("localhost:65535", Address("localhost", 65535)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "10390", "host", "host:", "::1:80", "[::1]", ":65536", ":-1", ":http", ":¹", "[a:1"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match=r"cannot listen on .*: write :PORT"):
        parse_address(text)


def test_no_host_means_both_families() -> None:
    (listening,) = open_sockets([Address("", 0)])
    with listening:
        port = address_of(listening).port
        assert port > 0
        assert str(address_of(listening)) == f"[::]:{port}"
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=10).close()


def test_without_ipv6_no_host_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without)
    (listening,) = open_sockets([Address("", 0)])
    with listening:
        assert address_of(listening).host == "0.0.0.0"


def test_a_name_with_both_families_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def both(host: str, port: int, **_: object) -> list[object]:
        return [*real("::1", port, type=socket.SOCK_STREAM),
                *real("127.0.0.1", port, type=socket.SOCK_STREAM)]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", both)
    (listening,) = open_sockets([Address("localhost", 0)])
    with listening:
        assert address_of(listening).host == "127.0.0.1"


def test_a_port_in_use_is_said_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot listen on 127.0.0.1:{port}: .*in use"
        ) as raised:
            open_sockets([Address("127.0.0.1", free), Address("127.0.0.1", port)])
        # The error at hand keeps the frame alive: nothing was closed by being forgotten.
        assert raised.tb is not None
        socket.create_server(("127.0.0.1", free)).close()


@pytest.mark.parametrize(
    ("host", "message"),
    [("192.0.2.1", "no interface of this machine"), ("no.such.host.invalid", "not known here")],
)
def test_an_address_that_is_not_ours(host: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_sockets([Address(host, 0)])
