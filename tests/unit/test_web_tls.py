"""TLS with real certificates and real handshakes."""

import asyncio
import logging
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import ClientConnectionError, ClientSession
from tests.tools import require
from tests.unit.web_support import PATIENCE, FakeSource, place_of, serving

from worker_exporter.errors import UserError
from worker_exporter.web.config import TlsConfig
from worker_exporter.web.tls import ReloadingContext, make_context


def openssl(*arguments: str) -> None:
    subprocess.run([require("openssl"), *arguments], check=True, capture_output=True)


def make_certificate(folder: Path, name: str, *extra: str) -> None:
    """A self-signed certificate `name`.crt for 127.0.0.1 and its key `name`.key."""
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
        *(extra or ("-nodes",)),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("host", "other", "client", "stranger"):
        make_certificate(folder, name)
    return folder


@pytest.fixture
def config(certificates: Path) -> TlsConfig:
    return TlsConfig(f"{certificates}/host.crt", f"{certificates}/host.key")


def drive(config: TlsConfig, scenario: Callable[[ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            context = ReloadingContext(config)
            async with serving(FakeSource(), context=context) as client:
                await scenario(client)

    asyncio.run(run())


def trust(folder: Path, name: str = "host", client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=f"{folder}/{name}.crt")
    if client is not None:
        context.load_cert_chain(f"{folder}/{client}.crt", f"{folder}/{client}.key")
    return context


async def status(client: ClientSession, context: ssl.SSLContext) -> int:
    async with client.get("/health", ssl=context, headers={"Connection": "close"}) as response:
        return response.status


def test_a_client_of_another_library_gets_metrics(config: TlsConfig) -> None:
    async def scenario(client: ClientSession) -> None:
        url = "https://{}:{}/metrics".format(*place_of(client))
        response = await asyncio.to_thread(
            requests.get, url, verify=config.cert_file, timeout=PATIENCE
        )
        assert response.text == "text 1 cpu,io,memory\n"
        with pytest.raises(requests.exceptions.SSLError):
            await asyncio.to_thread(requests.get, url, timeout=PATIENCE)

    drive(config, scenario)


def test_only_clients_with_a_good_certificate(certificates: Path, config: TlsConfig) -> None:
    required = replace(
        config,
        client_auth_type="RequireAndVerifyClientCert",
        client_ca_file=f"{certificates}/client.crt",
    )

    async def scenario(client: ClientSession) -> None:
        assert await status(client, trust(certificates, client="client")) == 200
        for name in (None, "stranger"):
            with pytest.raises(ClientConnectionError):
                await status(client, trust(certificates, client=name))

    drive(required, scenario)


def test_a_certificate_if_there_is_one(certificates: Path, config: TlsConfig) -> None:
    optional = replace(
        config,
        client_auth_type="VerifyClientCertIfGiven",
        client_ca_file=f"{certificates}/client.crt",
    )

    async def scenario(client: ClientSession) -> None:
        assert await status(client, trust(certificates)) == 200
        assert await status(client, trust(certificates, client="client")) == 200
        with pytest.raises(ClientConnectionError):
            await status(client, trust(certificates, client="stranger"))

    drive(optional, scenario)


def test_versions_and_ciphers_are_kept(certificates: Path, config: TlsConfig) -> None:
    narrow = replace(
        config,
        max_version="TLS12",
        cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    )

    async def scenario(client: ClientSession) -> None:
        place = place_of(client)
        _, writer = await asyncio.open_connection(*place, ssl=trust(certificates))
        cipher = writer.get_extra_info("cipher")
        assert cipher[:2] == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2")
        writer.close()
        newest = trust(certificates)
        newest.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(ClientConnectionError):
            await status(client, newest)

    drive(narrow, scenario)


def copy(folder: Path, name: str, to: Path) -> None:
    for suffix in ("crt", "key"):
        (to / f"now.{suffix}").write_bytes((folder / f"{name}.{suffix}").read_bytes())


def test_a_renewed_certificate_serves_new_connections_and_a_broken_one_does_not(
    certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy(certificates, "host", tmp_path)

    async def scenario(client: ClientSession) -> None:
        assert await status(client, trust(certificates, "host")) == 200
        copy(certificates, "other", tmp_path)
        assert await status(client, trust(certificates, "other")) == 200
        (tmp_path / "now.key").write_bytes((certificates / "host.key").read_bytes())
        for _ in range(2):
            assert await status(client, trust(certificates, "other")) == 200
        (tmp_path / "now.crt").unlink()
        assert await status(client, trust(certificates, "other")) == 200
        copy(certificates, "host", tmp_path)
        assert await status(client, trust(certificates, "host")) == 200

    with caplog.at_level(logging.INFO, logger="worker_exporter"):
        drive(TlsConfig(f"{tmp_path}/now.crt", f"{tmp_path}/now.key"), scenario)
    messages = [r.getMessage() for r in caplog.records if r.name == "worker_exporter"]
    again, unusable = "TLS files were read again", "new TLS files are unusable"
    assert [message.partition(",")[0] for message in messages] == [
        again,
        unusable,
        unusable,
        again,
    ]


def test_plain_http_on_a_tls_port_does_no_harm(certificates: Path, config: TlsConfig) -> None:
    async def scenario(client: ClientSession) -> None:
        reader, writer = await asyncio.open_connection(*place_of(client))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"200" not in await reader.read()
        writer.close()
        assert await status(client, trust(certificates)) == 200

    drive(config, scenario)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cert_file": "/none.crt"}, "cert_file /none.crt.*No such file"),
        ({"cert_file": "{}/host.key"}, "cannot be used"),
        ({"key_file": "{}/other.key"}, "key values mismatch"),
        ({"key_file": "{}/locked.key", "cert_file": "{}/locked.crt"}, "the key is encrypted"),
        ({"client_ca_file": "/none.crt"}, "client_ca_file /none.crt: cannot be used: No such"),
        ({"client_ca_file": "{}/host.key"}, "client_ca_file .*cannot be used"),
        ({"cipher_suites": ("RC4",)}, "cipher_suites: 'RC4' is not supported; known are TLS_"),
        ({"cipher_suites": ("TLS_AES_128_GCM_SHA256",)}, "add min_version: TLS13"),
    ],
)
def test_files_that_cannot_be_used_are_named_in_one_line(
    certificates: Path, config: TlsConfig, changes: dict[str, Any], message: str
) -> None:
    if "locked" in str(changes):
        make_certificate(certificates, "locked", "-passout", "pass:secret")
    filled: dict[str, Any] = {
        key: value.format(certificates) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(UserError, match=message) as raised:
        make_context(replace(config, **filled))
    assert "\n" not in str(raised.value)
