"""The file of --web.config.file, in the format of Prometheus's exporter-toolkit."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from worker_exporter.errors import UserError

_SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users")
_TLS_KEYS = (
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
)
_CLIENT_AUTH = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
# exporter-toolkit allows these headers, some with these values only.
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
# The last letter of the salt holds two bits only, and bcrypt refuses others.
_BCRYPT = re.compile(
    r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}"
)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """How to speak TLS; paths are absolute or relative to the working directory."""

    cert_file: str
    key_file: str
    client_auth_type: str = "NoClientCert"
    client_ca_file: str | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the file asks for; the default is plain HTTP for everybody."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)


def read_config(path: str) -> WebConfig:
    """The configuration in the file at `path`; an empty file is the default.

    Raises UserError, one line that starts with the path, for what is not understood.
    """
    try:
        with open(path, "rb") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_yaml_problem(error)}") from None
    try:
        return _parse({} if content is None else content, os.path.dirname(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(content: object, folder: str) -> WebConfig:
    sections = _mapping(content, "the file")
    _check_keys(sections, _SECTIONS, "the file")
    http = _mapping(sections.get("http_server_config") or {}, "http_server_config")
    _check_keys(http, ("headers", "http2"), "http_server_config")
    tls = _mapping(sections.get("tls_server_config") or {}, "tls_server_config")
    return WebConfig(
        tls=_tls(tls, folder) if tls else None,
        headers=_headers(_mapping(http.get("headers") or {}, "headers")),
        users=_users(_mapping(sections.get("basic_auth_users") or {}, "basic_auth_users")),
    )


def _tls(section: Mapping[str, Any], folder: str) -> TlsConfig:
    _check_keys(section, _TLS_KEYS, "tls_server_config")
    for key in ("cert_file", "key_file"):
        if not section.get(key):
            raise UserError(f"tls_server_config: {key} is missing")
    authority = _text(section, "client_ca_file", "")
    config = TlsConfig(
        cert_file=os.path.join(folder, _text(section, "cert_file", "")),
        key_file=os.path.join(folder, _text(section, "key_file", "")),
        client_auth_type=_one_of(section, "client_auth_type", _CLIENT_AUTH, "NoClientCert"),
        client_ca_file=os.path.join(folder, authority) if authority else None,
        min_version=_one_of(section, "min_version", _VERSIONS, "TLS12"),
        max_version=_one_of(section, "max_version", _VERSIONS, "TLS13"),
        cipher_suites=_texts(section, "cipher_suites"),
        prefer_server_cipher_suites=_boolean(section, "prefer_server_cipher_suites", True),
    )
    if config.min_version > config.max_version:
        raise UserError("tls_server_config: min_version is above max_version")
    if (config.client_ca_file is None) != (config.client_auth_type == "NoClientCert"):
        raise UserError(
            "tls_server_config: client_ca_file and client_auth_type"
            " (VerifyClientCertIfGiven or RequireAndVerifyClientCert) need each other"
        )
    return config


def _headers(section: Mapping[str, Any]) -> Mapping[str, str]:
    _check_keys(section, tuple(_HEADERS), "headers")
    headers = {name: _text(section, name, "") for name in section}
    for name, value in headers.items():
        allowed = _HEADERS[name]
        if value and allowed and value.lower() not in allowed:
            raise UserError(f"headers: {name} must be {' or '.join(allowed)}")
        if not (value.isascii() and value.isprintable()):
            raise UserError(f"headers: {name} must be one line of ASCII")
    return {name: value for name, value in headers.items() if value}


def _users(section: Mapping[str, Any]) -> Mapping[str, str]:
    for user, hashed in section.items():
        if not (isinstance(hashed, str) and _BCRYPT.fullmatch(hashed)):
            raise UserError(
                f"basic_auth_users: the password of {user!r} is not a bcrypt hash;"
                " make one with: htpasswd -nBC 10 USER"
            )
    return section


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{what} must be a mapping of names to values")
    return value


def _check_keys(section: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in section:
        if key not in known:
            raise UserError(f"{what}: {key!r} is not supported; known are {', '.join(known)}")


def _text(section: Mapping[str, Any], key: str, default: str) -> str:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise UserError(f"{key} must be a string")
    return value


def _texts(section: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = section.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key} must be a list of strings")
    return tuple(value)


def _boolean(section: Mapping[str, Any], key: str, default: bool) -> bool:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false")
    return value


def _one_of(section: Mapping[str, Any], key: str, allowed: tuple[str, ...], default: str) -> str:
    value = _text(section, key, "") or default
    if value not in allowed:
        raise UserError(f"{key} {value!r} is not supported; known are {', '.join(allowed)}")
    return value


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
