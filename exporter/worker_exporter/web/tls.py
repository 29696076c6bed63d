"""TLS with certificates that are read again when their files change."""

import os
import ssl
from typing import Any, NoReturn

from worker_exporter import log
from worker_exporter.errors import UserError
from worker_exporter.web.config import TlsConfig

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# Go's names, which the file uses, and OpenSSL's.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
# OpenSSL and Go alike offer all of these with TLS 1.3, whatever the list says.
_CIPHERS_13 = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)


class ReloadingContext(ssl.SSLContext):
    """Gives every new connection a context made of the files as they are now.

    A changed file that cannot be used (half written, wrong key) is logged once, and the last
    good context serves on. Making one raises UserError.
    """

    _config: TlsConfig
    _seen: list[object]
    _current: ssl.SSLContext

    def __new__(cls, config: TlsConfig) -> "ReloadingContext":
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._config = config
        self._seen = _stamps(config)
        self._current = make_context(config)
        return self

    # asyncio asks for one of these per connection.
    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """An SSL object of the newest good context."""
        self._refresh()
        return self._current.wrap_bio(*args, **kwargs)

    def _refresh(self) -> None:
        stamps = _stamps(self._config)
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._current = make_context(self._config)
        except UserError as error:
            log.error("new TLS files are unusable, the last good ones serve on", err=str(error))
        else:
            log.info("TLS files were read again")


def make_context(config: TlsConfig) -> ssl.SSLContext:
    """A server context for `config`; raises UserError for files or ciphers it cannot use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.min_version]
    context.maximum_version = _VERSIONS[config.max_version]
    if config.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _set_ciphers(context, config)
    try:
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        files = f"cert_file {config.cert_file}, key_file {config.key_file}"
        raise UserError(f"{files}: cannot be used: {_reason(error)}") from None
    context.verify_mode = _VERIFY[config.client_auth_type]
    if config.client_ca_file is not None:
        try:
            context.load_verify_locations(config.client_ca_file)
        except OSError as error:
            reason = _reason(error)
            raise UserError(
                f"client_ca_file {config.client_ca_file}: cannot be used: {reason}"
            ) from None
    return context


def _set_ciphers(context: ssl.SSLContext, config: TlsConfig) -> None:
    for name in config.cipher_suites:
        if name not in _CIPHERS and name not in _CIPHERS_13:
            known = ", ".join((*_CIPHERS, *_CIPHERS_13))
            raise UserError(f"cipher_suites: {name!r} is not supported; known are {known}")
    names = [_CIPHERS[name] for name in config.cipher_suites if name in _CIPHERS]
    if names:
        context.set_ciphers(":".join(names))
    elif config.cipher_suites and config.min_version != "TLS13":
        raise UserError("cipher_suites names only suites of TLS 1.3: add min_version: TLS13")


def _stamps(config: TlsConfig) -> list[object]:
    paths = (config.cert_file, config.key_file, config.client_ca_file)
    return [_stamp(path) for path in paths if path is not None]


def _stamp(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_mtime_ns, status.st_size


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted; give one without a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
