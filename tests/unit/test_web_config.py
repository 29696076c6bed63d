"""The web configuration file: what it may say, and what is said about the rest."""

from pathlib import Path

import pytest

from worker_exporter.errors import UserError
from worker_exporter.web.config import TlsConfig, WebConfig, read_config

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n"


def read(tmp_path: Path, content: str | bytes) -> WebConfig:
    path = tmp_path / "web.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_config(str(path))


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "basic_auth_users:\n"])
def test_an_empty_file_asks_for_nothing(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == WebConfig()


def test_everything_at_once(tmp_path: Path) -> None:
    content = f"""
tls_server_config:
  cert_file: certs/host.crt
  key_file: /etc/host.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  min_version: TLS13
  max_version: TLS13
  cipher_suites: [TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000
    X-Content-Type-Options: ""
basic_auth_users:
  anna: {HASH}
"""
    assert read(tmp_path, content) == WebConfig(
        tls=TlsConfig(
            cert_file=str(tmp_path / "certs/host.crt"),
            key_file="/etc/host.key",
            client_auth_type="RequireAndVerifyClientCert",
            client_ca_file=str(tmp_path / "ca.crt"),
            min_version="TLS13",
            max_version="TLS13",
            cipher_suites=("TLS_AES_128_GCM_SHA256",),
            prefer_server_cipher_suites=False,
        ),
        headers={"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=31536000"},
        users={"anna": HASH},
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not YAML: line 1, column 5: "),
        (b"\xff\xfe\xff", "not YAML: "),
        ("!!python/object:os.system {}", "not YAML: line 1"),
        ("- a", "the file must be a mapping"),
        ("1: 2", "the file must be a mapping"),
        ("false", "the file must be a mapping"),
        ("basic_auth: {}", "the file: 'basic_auth' is not supported; known are tls_server_config"),
        ("rate_limit: {burst: 1}", "the file: 'rate_limit' is not supported"),
        ("tls_server_config: x", "tls_server_config must be a mapping"),
        ("tls_server_config: {cert_file: a}", "tls_server_config: key_file is missing"),
        ("tls_server_config: {key_file: a}", "tls_server_config: cert_file is missing"),
        ("tls_server_config: {cert: x}", "tls_server_config: 'cert' is not supported"),
        (TLS + "  client_allowed_sans: [x]", "'client_allowed_sans' is not supported"),
        (TLS.replace("a.crt", "1"), "cert_file must be a string"),
        (TLS + "  min_version: TLS9", "min_version 'TLS9' is not supported; known are TLS10"),
        (TLS + "  min_version: TLS13\n  max_version: TLS12", "min_version is above max_version"),
        (TLS + "  client_auth_type: RequireAnyClientCert", "client_auth_type 'RequireAnyClient"),
        (TLS + "  client_auth_type: RequireAndVerifyClientCert", "need each other"),
        (TLS + "  client_ca_file: ca", "need each other"),
        (TLS + "  cipher_suites: x", "cipher_suites must be a list of strings"),
        (TLS + "  prefer_server_cipher_suites: 1", "must be true or false"),
        ("http_server_config: {x: 1}", "http_server_config: 'x' is not supported"),
        ("http_server_config: {headers: {Server: x}}", "headers: 'Server' is not supported"),
        ("http_server_config: {headers: {X-Frame-Options: x}}", "must be deny or sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}', "one line of ASCII"),
        ("basic_auth_users: [a]", "basic_auth_users must be a mapping"),
        ("basic_auth_users: {a: secret}", "the password of 'a' is not a bcrypt hash"),
        ("basic_auth_users: {a: 5}", "the password of 'a' is not a bcrypt hash"),
        (f"basic_auth_users: {{a: {HASH[:-1]}}}", "the password of 'a' is not a bcrypt hash"),
        (f"basic_auth_users: {{a: {HASH.replace('$10$', '$99$')}}}", "is not a bcrypt hash"),
        (f"basic_auth_users: {{a: {HASH[:28]}z{HASH[29:]}}}", "is not a bcrypt hash"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, content)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path}/web.yml: ") and message in text
    assert "\n" not in text and "secret" not in text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none\.yml: cannot be read: No such file"):
        read_config(str(tmp_path / "none.yml"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_config(str(tmp_path))
