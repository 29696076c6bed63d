"""From a cgroup's path to the service and instance that it stands for."""

import re
from dataclasses import dataclass

from worker_exporter.errors import UserError

LABEL_BYTES = 256
"""Longest label value, in bytes of UTF-8."""

_UNIT = re.compile(r"(?s)(?P<name>.+)\.(?:service|scope)")
_CONTAINER = re.compile(r"(?:[a-z]+(?:-[a-z]+)*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_NUMBERED = re.compile(r"(?s)(?P<service>.+)-(?P<instance>[0-9]+)")
_TEMPLATED = re.compile(r"(?s)(?P<service>[^@]+)@(?P<instance>.+)")
_TEXT_GROUP = re.compile(r"(?<!\\)\(\?P<\w+>((?:[\w@/-]|\\[.@/-])+)\)(?![*+?{])")
_ESCAPE = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")
_ESCAPED = re.compile(
    r"[_.]|(?:cgroup|cpu|cpuacct|cpuset|io|blkio|memory|devices|pids"
    r"|bpf-(?:firewall|devices|foreign|socket-bind|restrict-network-interfaces))\."
)
_UNIT_SUFFIXES = (
    ".service",
    ".scope",
    ".slice",
    ".socket",
    ".mount",
    ".swap",
    ".target",
    ".device",
    ".automount",
    ".timer",
    ".path",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is: the values of the labels `service` and `instance`. Without an instance it
    is the service as a whole.
    """

    service: str
    instance: str

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that every sample of it carries; one without a value is not shown."""
        return ("service", self.service), ("instance", self.instance)

    @property
    def valid(self) -> bool:
        """Whether both are label values: valid UTF-8 of 1 to 256 bytes."""
        return is_label_value(self.service) and is_label_value(self.instance)


def is_label_value(value: str) -> bool:
    """Whether `value` is valid UTF-8 of 1 to 256 bytes."""
    try:
        return 0 < len(value.encode()) <= LABEL_BYTES
    except UnicodeEncodeError:
        return False


def compile_pattern(text: str) -> re.Pattern[str]:
    """A --worker.pattern, to be matched whole against a path below the cgroup root.

    Raises UserError for a bad regular expression or one without both named groups.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(
            f"--worker.pattern {text!r} is not a regular expression: {error}"
        ) from error
    absent = {"service", "instance"} - set(pattern.groupindex)
    if absent:
        groups = " and ".join(f"(?P<{name}>...)" for name in sorted(absent))
        raise UserError(f"--worker.pattern {text!r} lacks the named group {groups}")
    return pattern


def literal_directory(pattern: re.Pattern[str]) -> str:
    """The directory below which every match of `pattern` lies: its text up to the first
    special character, cut at the last slash ("" when that is the cgroup root). A named group of
    mere text, such as (?P<service>docker), is that text.
    """
    text = _TEXT_GROUP.sub(r"\1", pattern.pattern)
    if "|" in text or pattern.flags & (re.IGNORECASE | re.VERBOSE):
        return ""
    literal = ""
    position = 0
    while position < len(text):
        character, follower = text[position], text[position + 1 : position + 2]
        escaped = character == "\\" and follower in (".", "-", "@", "/")
        if not escaped and character in "\\.^$*+?{}[]|()":
            break
        literal += follower if escaped else character
        position += 2 if escaped else 1
    if text[position : position + 1] in ("*", "?", "{"):
        literal = literal[:-1]
    return literal.rpartition("/")[0]


def check_slice(name: str) -> str:
    """`name`, when it can be a slice unit's name. Raises UserError when it cannot."""
    stem = name.removesuffix(".slice")
    if stem == name or "/" in name or not all(stem.split("-")):
        raise UserError(
            f"--worker.slice {name!r} is no slice; it must look like worker.slice or my-team.slice"
        )
    return name


def slice_path(name: str) -> str:
    """The cgroup path of a slice below its manager: "my-team.slice" is in "my.slice"."""
    parts = name.removesuffix(".slice").split("-")
    slices = ("-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts)))
    return "/".join(map(directory_of, slices))


def directory_of(unit: str) -> str:
    """The name of a unit's cgroup: with an underscore before what looks like a kernel file's
    (cg_escape of systemd).
    """
    return f"_{unit}" if _ESCAPED.match(unit) else unit


def manager_path(uid: int) -> str:
    """The cgroup path of a user's own service manager."""
    return f"user.slice/user-{uid}.slice/user@{uid}.service"


def by_pattern(path: str, patterns: tuple[re.Pattern[str], ...]) -> Identity | None:
    """The identity that the first pattern matching the whole `path` gives, if any."""
    for pattern in patterns:
        match = pattern.fullmatch(path)
        if match:
            return Identity(match["service"] or "", match["instance"] or "")
    return None


def by_path(parts: tuple[str, ...], stem: str) -> Identity | None:
    """The identity of the cgroup `parts` (names below a worker slice) by the rows of the contract.

    `stem` is the slice's name without ".slice". None: this cgroup is no worker.
    """
    name = parts[-1]
    service = service_of(parts[0], stem) if len(parts) == 2 else None
    container = _CONTAINER.fullmatch(name)
    if service and container:
        return Identity(service, container["id"][:12])
    if name.endswith(".slice"):
        return _by_inner_slice(parts, service)
    unit = _UNIT.fullmatch(_unprefixed(name))
    if unit:
        return _by_unit(unit["name"], stem)
    if service and _is_plain(name) and _is_plain(parts[0]):
        return Identity(parts[0], name)
    return None


def service_of(directory: str, stem: str) -> str | None:
    """The service that `directory`, directly in the worker slice, is the slice or directory of."""
    if _is_plain(directory):
        return directory
    name = _unprefixed(directory)
    if not name.endswith(".slice") or not name.startswith(f"{stem}-"):
        return None
    return unescape(name.removeprefix(f"{stem}-").removesuffix(".slice")) or None


def may_hold_workers(parts: tuple[str, ...]) -> bool:
    """Whether workers may lie below the cgroup `parts` (names below a worker slice), itself none:
    a slice, or the plain directory of a service.
    """
    name = parts[-1]
    return name.endswith(".slice") or (len(parts) == 1 and _is_plain(name))


def unit_name(path: str) -> str | None:
    """The service or scope that the cgroup `path` itself is, if it is one."""
    name = _unprefixed(path.rpartition("/")[2])
    return name if name.endswith((".service", ".scope")) else None


def unit_of(path: str) -> str:
    """The systemd unit that the cgroup `path` is, else the service or scope around it, else ""."""
    parts = path.split("/")
    if parts[-1].endswith(".slice"):
        return _unprefixed(parts[-1])
    for name in reversed(parts):
        if name.endswith((".service", ".scope")):
            return _unprefixed(name)
    return ""


def unescape(name: str) -> str:
    r"""`name` with systemd's escapes (`\x2d`) undone; what is no UTF-8 becomes surrogates."""
    if "\\" not in name:
        return name
    return _ESCAPE.sub(
        lambda match: bytes.fromhex(match[0].replace("\\x", "")).decode(errors="surrogateescape"),
        name,
    )


def _by_inner_slice(parts: tuple[str, ...], service: str | None) -> Identity | None:
    """<stem>-<service>.slice/<stem>-<service>-<instance>.slice, the slice around a container."""
    if service is None or _is_plain(parts[0]):
        return None
    outer, inner = (_unprefixed(part).removesuffix(".slice") for part in parts)
    if not inner.startswith(f"{outer}-"):
        return None
    return Identity(service, unescape(inner.removeprefix(f"{outer}-")))


def _by_unit(name: str, stem: str) -> Identity:
    own = name.removeprefix(f"{stem}-") or name
    match = _TEMPLATED.fullmatch(own) or _NUMBERED.fullmatch(own)
    if match is None:
        return Identity(unescape(own), "main")
    return Identity(unescape(match["service"]), unescape(match["instance"]))


def _is_plain(name: str) -> bool:
    return not name.endswith(_UNIT_SUFFIXES)


def _unprefixed(name: str) -> str:
    """Without the underscore systemd puts before names that look like a kernel file's."""
    return name.removeprefix("_")
