"""What a request came to, in words for the user; no secret is ever among them."""

import json
import re
from collections.abc import Mapping
from typing import Any

import requests
import urllib3

from worker_sidecar.errors import SidecarError
from worker_sidecar.ship.errors import ConflictError, DeniedError, ServerError, WrongServerError

_LONGEST = 300

_CERTIFICATE = (
    ("Hostname mismatch", "is for another host"),
    ("IP address mismatch", "is for another host"),
    ("doesn't match", "is for another host"),
    ("certificate has expired", "has expired"),
    ("certificate is not yet valid", "is not valid yet"),
    ("self-signed", "is signed by a CA that is not known here; name it by --ca-file"),
    ("self signed", "is signed by a CA that is not known here; name it by --ca-file"),
    ("unable to get", "is signed by a CA that is not known here; name it by --ca-file"),
)
"""What OpenSSL says of a certificate, and what it means."""

_UNSENDABLE = (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError)
"""The URL's host, or a proxy's, is none; requests lets through some of urllib3's own."""

_SPEAKS_TLS = ("HTTP request to an HTTPS server", "HTTP request was sent to HTTPS port")
"""What Go's servers say on 400, and nginx."""

_NO_NAME = (
    "NameResolutionError",
    "Name or service not known",
    "name resolution",
    "No address associated",
)


def of_failure(
    url: str, error: requests.RequestException | urllib3.exceptions.HTTPError
) -> SidecarError:
    """Why there was no answer at all."""
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return ServerError(f"{url}: the proxy that the environment names does not answer")
    if isinstance(error, requests.exceptions.SSLError):
        return ServerError(f"{url}: {_of_tls(text)}")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return ServerError(f"{url}: nobody answers there")
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in text:
        return ServerError(f"{url}: no answer in time")
    if any(sign in text for sign in _NO_NAME):
        return ServerError(f"{url}: the host's name is not known")
    if "Connection refused" in text:
        return ServerError(f"{url}: connection refused; nobody listens there")
    if "unreachable" in text or "No route to host" in text:
        return ServerError(f"{url}: no route leads there")
    if isinstance(error, _UNSENDABLE):
        # not in the library's words, which repeat a proxy's password
        return ServerError(f"{url}: no host has such a name, or the environment's proxy is no URL")
    if isinstance(error, requests.exceptions.ConnectionError):
        return ServerError(f"{url}: the connection broke before an answer came")
    return ServerError(f"{url}: {type(error).__name__}: {_shortened(text)}")


def is_passing(error: Exception) -> bool:
    """Whether it may be over in a moment: a server that starts, a broken connection."""
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return False
    if any(sign in str(error) for sign in _NO_NAME):
        return False
    return isinstance(
        error,
        requests.exceptions.ConnectionError
        | requests.exceptions.Timeout
        | requests.exceptions.ChunkedEncodingError,
    )


def of_refusal(answer: requests.Response, known: bool) -> SidecarError:
    """Why an answer is not the one that was asked for; `known`: the request had credentials."""
    code, words = answer.status_code, said(answer)
    what = _asked(answer)
    if 300 <= code < 400:
        return WrongServerError(f"{what}: {_of_redirect(answer)}")
    if code == 401:
        why = "the credentials are not accepted" if known else "credentials are asked for"
        return DeniedError(f"{what}: {why} (401{_colon(words)})")
    if code == 403:
        why = "with these credentials" if known else "without credentials"
        return DeniedError(f"{what}: not permitted {why} (403{_colon(words)})")
    if code == 404:
        return WrongServerError(f"{what}: there is no such thing (404{_colon(words)})")
    if code in (409, 412):
        return ConflictError(f"{what}: in conflict with what is there ({code}{_colon(words)})")
    if code == 400 and any(sign in answer.text for sign in _SPEAKS_TLS):
        return WrongServerError(f"{what}: this port speaks TLS; the URL must begin with https://")
    return ServerError(f"{what}: answered {code}{_colon(words)}")


def of_wrong_content(answer: requests.Response, wanted: str) -> SidecarError:
    """Why the body of a good answer cannot be used."""
    kind = answer.headers.get("Content-Type", "no content type").partition(";")[0]
    where = _asked(answer)
    if "html" in kind:
        return WrongServerError(
            f"{where}: answered with a web page, not {wanted}; "
            "a login stands before it, or the URL lacks a path"
        )
    return WrongServerError(f"{where}: answered with {kind}, not {wanted}")


def said(answer: requests.Response) -> str:
    """The server's own words on an error, on one line; "" for a web page."""
    if "html" in answer.headers.get("Content-Type", ""):
        return ""
    try:
        document = json.loads(answer.content)
    except ValueError:
        return _shortened(answer.text)
    return _shortened(_message(document)) if isinstance(document, Mapping) else ""


def _asked(answer: requests.Response) -> str:
    """The request, without a query: that can be long, and tells nobody anything."""
    return f"{answer.request.method} {answer.url.partition('?')[0]}"


def _message(document: Mapping[str, Any]) -> str:
    """Grafana and its resource API put it in `message`, Prometheus in `error`."""
    for key in ("message", "error"):
        if isinstance(document.get(key), str) and document[key]:
            return str(document[key])
    return ""


def _of_tls(text: str) -> str:
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "the server does not speak TLS; the URL must begin with http://"
    for sign, meaning in _CERTIFICATE:
        if sign in text:
            return f"the server's certificate {meaning}"
    return f"TLS failed: {_shortened(text)}"


def _of_redirect(answer: requests.Response) -> str:
    target = answer.headers.get("Location", "")
    if target.startswith("https://") and answer.url.startswith("http://"):
        return "redirects to https; the URL must begin with https://"
    # a target can carry a session in its query
    target = re.split("[?#]", target)[0]
    return f"redirects to {target}; name the URL behind it, or a login stands before it"


def _colon(words: str) -> str:
    return f": {words}" if words else ""


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
