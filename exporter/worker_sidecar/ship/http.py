"""Requests to one server: who we are, TLS, patience, and errors in words."""

import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import requests
import urllib3
import yaml
from requests.auth import AuthBase, HTTPBasicAuth

from worker_exporter import __version__, log
from worker_sidecar.errors import InputError
from worker_sidecar.ship import words
from worker_sidecar.ship.access import Access

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection has to stand."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 8.0

_NO_URL = "the URL must be of the form https://host[:port][/path]"
"""It is not repeated, for it may hold what looks like no credentials and is."""

_PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses that may be over in a moment."""


class Server:
    """A server that is asked by its paths below the URL, which may have a path of its own.

    Making one raises InputError for a URL or a CA file that cannot be.
    """

    def __init__(
        self,
        url: str,
        access: Access,
        headers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = _checked(url)
        self._access = access
        self._known = access.token is not None or access.user is not None
        self._clock = clock
        self._sleep = sleep
        self._session = requests.Session()
        self._session.auth = _auth(access)
        self._session.headers["User-Agent"] = f"worker-sidecar/{__version__}"
        self._session.headers.update(_sendable(headers or {}))
        self._verify = _verify(access)
        self._proxies = _proxies(self.url)
        _warn(self.url, access)

    def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        expected: Collection[int] = (),
    ) -> "Answer":
        """As ask(), by GET."""
        return self.ask("GET", path, query=query, expected=expected)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: object = None,
        text: str | None = None,
        expected: Collection[int] = (),
    ) -> "Answer":
        """The answer to a request whose body is `document` in JSON, or `text` in YAML.

        A status outside 2xx and `expected` raises DeniedError (401, 403), WrongServerError (404, a
        redirect), ConflictError (409, 412) or ServerError. Passing trouble (no connection, 429,
        5xx) is waited out first, as long as the server's patience lasts.
        """
        body, kind = None, None
        if text is not None:
            body, kind = text.encode(), "application/yaml"
        elif document is not None:
            body, kind = json.dumps(document).encode(), "application/json"
        headers = {"Accept": "application/json"} | ({} if kind is None else {"Content-Type": kind})
        answer = self._patiently(method, path, query, body, headers, expected)
        status = answer.status_code
        if status in expected or 200 <= status < 300:
            return Answer(answer)
        raise words.of_refusal(answer, self._known)

    def _patiently(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str],
        expected: Collection[int],
    ) -> requests.Response:
        """The first answer that is not passing trouble, or the last one."""
        end: float | None = None
        for pause in _pauses():
            asked_to_wait = 0.0
            try:
                answer = self._once(method, path, query, body, headers)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                trouble = words.of_failure(self.url, error)
                if not words.is_passing(error):
                    raise trouble from None
            else:
                if answer.status_code not in _PASSING or answer.status_code in expected:
                    return answer
                trouble = words.of_refusal(answer, self._known)
                asked_to_wait = _retry_after(answer)
            now = self._clock()
            end = now + self._access.patience if end is None else end
            wait = max(pause, asked_to_wait)
            if now + wait > end:
                raise trouble
            log.warn("trying again", seconds=wait, err=str(trouble))
            self._sleep(wait)
        raise AssertionError("pauses are endless")

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> requests.Response:
        return self._session.request(
            method,
            self.url + path,
            params=query,
            data=body,
            headers=headers,
            timeout=(CONNECT_TIMEOUT, self._access.timeout),
            # credentials must not follow to where a redirect points, nor may a POST become a GET
            allow_redirects=False,
            verify=self._verify,
            proxies=self._proxies,
        )


class Answer:
    """What a server answered."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self.status = response.status_code

    @property
    def said(self) -> str:
        """The server's words on an error, on one line."""
        return words.said(self._response)

    def document(self) -> object:
        """The body, which is JSON of any kind. Raises WrongServerError."""
        return self._parsed("JSON", json.loads)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises WrongServerError."""
        document = self.document()
        if not isinstance(document, dict):
            raise words.of_wrong_content(self._response, "a JSON object")
        return document

    def json_list(self) -> list[Any]:
        """The body as a JSON array. Raises WrongServerError."""
        document = self.document()
        if not isinstance(document, list):
            raise words.of_wrong_content(self._response, "a JSON array")
        return document

    def yaml(self) -> dict[str, Any]:
        """The body as a YAML mapping, {} where it is empty. Raises WrongServerError."""
        document = self._parsed("YAML", yaml.safe_load)
        if document is None:
            return {}
        if not isinstance(document, dict):
            raise words.of_wrong_content(self._response, "a YAML mapping")
        return document

    def _parsed(self, wanted: str, parse: Callable[[bytes], object]) -> object:
        try:
            return parse(self._response.content)
        except (ValueError, yaml.YAMLError):
            raise words.of_wrong_content(self._response, wanted) from None


def part(name: str) -> str:
    """`name` as one part of a path."""
    return quote(name, safe="")


class _Bearer(AuthBase):
    """A token; as `auth`, for else requests would prefer what a ~/.netrc says of the host."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(AuthBase):
    """No credentials, also none of a ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _auth(access: Access) -> AuthBase:
    if access.token is not None:
        return _Bearer(access.token)
    if access.user is not None:
        return HTTPBasicAuth(access.user.encode(), (access.password or "").encode())
    return _Nobody()


def _verify(access: Access) -> bool | str:
    """requests' `verify`; what is given beats the environment's REQUESTS_CA_BUNDLE."""
    if access.insecure:
        return False
    if access.ca_file is None:
        return True
    try:
        ssl.create_default_context(cafile=access.ca_file)
    except ssl.SSLError:
        raise InputError(f"{access.ca_file} holds no certificate in PEM") from None
    except OSError as error:
        raise InputError(f"{access.ca_file} cannot be read: {error.strerror}") from None
    return access.ca_file


def _checked(url: str) -> str:
    """`url` without a slash at the end. Raises InputError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(_NO_URL) from None
    if parts.username is not None or parts.password is not None:
        raise InputError("the URL must not hold credentials: everybody here can see them in ps")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(_NO_URL)
    if parts.query or parts.fragment:
        raise InputError("the URL must end with a host or a path, without ? and #")
    return url.rstrip("/")


def _sendable(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers`, whose values are the user's. Raises InputError for what HTTP cannot carry."""
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise InputError(f"{value} is not ASCII, which the header {name} takes only")
    return headers


def _proxies(url: str) -> dict[str, str]:
    """requests' `proxies`: the environment's, but none to the loopback, which is another there."""
    host = urlsplit(url).hostname or ""
    return {"no_proxy": host} if _is_loopback(host) else {}


def _warn(url: str, access: Access) -> None:
    if access.insecure:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        log.warn("--insecure: anybody on the way can read and change what is sent", url=url)
    parts = urlsplit(url)
    secret = access.token is not None or access.password is not None
    if secret and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        log.warn("the credentials go over the network unencrypted", url=url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _retry_after(answer: requests.Response) -> float:
    """Seconds of the header Retry-After; 0 for a date, which hardly any server sends."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
