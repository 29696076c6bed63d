"""What processes may: see each other, and open files."""

import os
from collections.abc import Iterator

from worker_sidecar.doctor.context import Context
from worker_sidecar.doctor.finding import Finding, ok, warning

_FILES_PER_WORKER = 20
"""As many files of a worker the exporter keeps open, where all controllers are enabled."""

_FEW_WORKERS = 1000

_SHOWN = ("0", "off")


def hidepid(context: Context) -> Iterator[Finding]:
    """How /proc is mounted: hidepid= and subset= in /proc/self/mountinfo; systemd's ProtectProc=
    and ProcSubset= do the same for one unit.
    """
    options = _proc_options(context.host.procfs)
    hidden = options.get("hidepid", "0")
    if "subset" in options:
        says = f"/proc shows only processes (subset={options['subset']}); no figures of the node"
        yield warning("proc", says, "mount /proc without subset=; in a unit ProcSubset=all")
    if hidden in _SHOWN:
        yield ok("hidepid", "/proc shows all processes")
        return
    seen_by = f" to all but group {options['gid']}" if "gid" in options else ""
    says = f"/proc hides other users' processes{seen_by} (hidepid={hidden})"
    yield warning(
        "hidepid",
        f"{says}; an exporter of another user misses GPU figures, and memory by process",
        "mount -o remount,hidepid=0 /proc, or run the exporter in the group of gid=; "
        "in a unit ProtectProc=default",
    )


def open_files(context: Context) -> Iterator[Finding]:
    """RLIMIT_NOFILE, of whoever asks: a unit has its own, LimitNOFILE=."""
    soft, hard = context.host.open_files
    enough = hard // _FILES_PER_WORKER
    says = f"{soft} open files, {hard} at most"
    if hard < 0 or enough >= _FEW_WORKERS:
        yield ok("nofile", says)
        return
    advice = "ulimit -Hn 65536 as root, or nofile in /etc/security/limits.conf; in a unit "
    yield warning(
        "nofile",
        f"{says}: an exporter under this limit is slower from about {enough} workers on",
        f"{advice}LimitNOFILE=65536",
    )


def _proc_options(procfs: str) -> dict[str, str]:
    """The options of the mount on /proc, of the mount and of the file system."""
    found: dict[str, str] = {}
    path = os.path.join(procfs, "self/mountinfo")
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, source = line.rstrip("\n").partition(" - ")
            columns = fields.split(" ")
            if columns[4:5] == ["/proc"] and source.startswith("proc "):
                words = [*columns[5].split(","), *source.split(" ")[-1].split(",")]
                found = dict(_option(word) for word in words)
    return found


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
