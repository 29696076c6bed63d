"""From the bytes of kernel files to figures. Pure; numbers stay the kernel's own digits.

Every function raises ValueError for content that is empty, truncated or not what the kernel
documents, so that a wrong figure is never made of it. Unknown keys are passed over.
"""

UNLIMITED = b"max"

_COUNTERS = {b"rbytes", b"wbytes", b"rios", b"wios", b"dbytes", b"dios"}


def number(data: bytes) -> bytes:
    """A file of one count, such as memory.current: its digits."""
    digits = _line(data)
    if not digits.isdigit():
        raise ValueError(f"expected a number, found {digits[:40]!r}")
    return digits


def limit(data: bytes) -> int | None:
    """A file of one limit, such as memory.max. None: unlimited ("max")."""
    text = _line(data)
    return None if text == UNLIMITED else int(number(data))


def flat_keyed(data: bytes) -> dict[bytes, bytes]:
    """A flat keyed file, such as cpu.stat: each key with its digits."""
    tokens = _whole(data).split()
    values = tokens[1::2]
    if len(tokens) % 2 or not b"".join(values).isdigit():
        raise ValueError(f"expected lines of a key and a number, found {data[:40]!r}")
    return dict(zip(tokens[::2], values, strict=True))


def nested_keyed(data: bytes) -> dict[bytes, dict[bytes, bytes]]:
    """A nested keyed file, such as io.stat: for each device its keys with their digits.

    A device without values (the kernel writes such lines) has an empty dictionary. io.stat may
    be empty: nothing was read or written yet. Values of controllers' debugging that are no
    numbers, such as "depth=max", are passed over.
    """
    if not data:
        return {}
    devices = {}
    for line in _whole(data).splitlines():
        name, *pairs = line.split()
        if not name.replace(b":", b"", 1).isdigit():
            raise ValueError(f"expected MAJOR:MINOR, found {name[:40]!r}")
        values = dict(pair.split(b"=", 1) for pair in pairs)
        if not all(map(bytes.isdigit, values.values())):
            values = _numbers(values)
        devices[name] = values
    return devices


def pressure(data: bytes) -> tuple[bytes | None, bytes | None]:
    """A pressure file: the digits of `total` of "some" and "full", in microseconds.

    None for a line that is not there: cpu.pressure has no "full" before kernel 5.13.
    """
    lines = _whole(data)[:-1].split(b"\n")
    totals = {line[:5]: line.rpartition(b" total=")[2] for line in lines}
    if not all(map(bytes.isdigit, totals.values())):
        raise ValueError(f"expected total=number, found {data[:80]!r}")
    return totals.get(b"some "), totals.get(b"full ")


def cpu_max(data: bytes) -> float | None:
    """cpu.max, "QUOTA PERIOD" in microseconds: cores. None: unlimited."""
    quota, period = _line(data).split()
    if quota == UNLIMITED:
        return None
    if not quota.isdigit() or not period.isdigit() or not int(period):
        raise ValueError(f"expected a quota and a period, found {data[:40]!r}")
    try:
        return int(quota) / int(period)
    except OverflowError as error:
        raise ValueError(f"no number of cores: {data[:40]!r}") from error


def cpu_count(data: bytes) -> int | None:
    """How many CPUs a list such as "0-3,8" names (cpuset.cpus.effective). None: an empty list."""
    text = _line(data)
    if not text:
        return None
    return sum(_span(part) for part in text.split(b","))


def process_ids(data: bytes) -> tuple[int, ...]:
    """cgroup.procs: the PIDs. 0 stands for a process of another PID namespace."""
    tokens = _whole(data).split() if data else []
    if not all(map(bytes.isdigit, tokens)):
        raise ValueError(f"expected PIDs, found {data[:40]!r}")
    return tuple(map(int, tokens))


def seconds(microseconds: bytes) -> bytes:
    """Digits of microseconds as digits of seconds, exact to the last one."""
    if len(microseconds) > 6:
        return microseconds[:-6] + b"." + microseconds[-6:]
    return b"0." + microseconds.zfill(6)


def _span(part: bytes) -> int:
    first, dash, last = part.partition(b"-")
    last = last if dash else first
    if not first.isdigit() or not last.isdigit() or int(first) > int(last):
        raise ValueError(f"expected a list of CPUs, found {part[:40]!r}")
    return int(last) - int(first) + 1


def _numbers(values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """`values` without those that are no numbers, which no counter may be."""
    if not all(values[key].isdigit() for key in _COUNTERS & values.keys()):
        raise ValueError(f"expected key=number, found {values!r:.80}")
    return {key: value for key, value in values.items() if value.isdigit()}


def _line(data: bytes) -> bytes:
    return _whole(data)[:-1]


def _whole(data: bytes) -> bytes:
    """`data`, unless the kernel's closing newline is missing from it."""
    if not data.endswith(b"\n"):
        raise ValueError(f"truncated: {data[-40:]!r}" if data else "empty")
    return data
