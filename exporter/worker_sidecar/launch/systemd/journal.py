"""The output of a worker's last run, from systemd's journal."""

from collections.abc import Sequence

from worker_sidecar.errors import InputOutputError, NotFoundError
from worker_sidecar.launch.launcher import LogStream
from worker_sidecar.launch.output import CommandLog
from worker_sidecar.launch.systemd.manager import Manager
from worker_sidecar.launch.systemd.place import Place, client_environment
from worker_sidecar.launch.systemd.starting import last_line, run_client


async def invocation_of(manager: Manager, unit: str) -> str | None:
    """The id of a loaded unit's last run (InvocationID), None for a unit that is not loaded."""
    found = (await manager.properties(unit)).get("InvocationID", b"")
    return bytes(found).hex() or None


def last_invocation(unit: str, place: Place) -> str:
    """The id of a unit's last run, from the journal. Raises NotFoundError."""
    which = "--user-unit" if place.user else "--unit"
    fields = ("_SYSTEMD_INVOCATION_ID", _of_manager(place))
    command = ("journalctl", *_QUIET, f"{which}={unit}", "--lines=1", "--output=cat")
    for field in fields:
        done = run_client((*command, f"--output-fields={field}"))
        if done.returncode:
            raise InputOutputError(f"cannot read the journal: {last_line(done)}")
        found = done.stdout.strip()
        if found:
            return found
    raise NotFoundError(f"there is neither a unit {unit} nor any output of it in the journal")


def follow(invocation: str, lines: int, place: Place, *, follow: bool) -> LogStream:
    """The last `lines` lines of a run, and with `follow` what comes after them: what the worker
    wrote, and what systemd says of it, as it is.
    """
    matches = (f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"{_of_manager(place)}={invocation}")
    return CommandLog(command(matches, lines, follow=follow), client_environment())


def command(matches: Sequence[str], lines: int, *, follow: bool) -> tuple[str, ...]:
    """The journalctl that shows entries as they were written."""
    more = ["--follow"] if follow else []
    return ("journalctl", *_QUIET, "--all", "--output=cat", f"--lines={lines}", *more, *matches)


def _of_manager(place: Place) -> str:
    """The field of what the manager itself says, see systemd.journal-fields(7)."""
    return "USER_INVOCATION_ID" if place.user else "INVOCATION_ID"


_QUIET = ("--quiet", "--no-pager")
