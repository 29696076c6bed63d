"""A message bus on which a stand-in for systemd has a unit for each worker."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import end, follow_parent

from bench.environment import environment
from bench.workers import Workers
from worker_exporter.errors import UserError

_ADDRESS = "DBUS_SYSTEM_BUS_ADDRESS"

Properties = Mapping[str, str | int]
"""Of a unit, by their names in org.freedesktop.systemd1(5)."""


class Bus:
    """The bus, in a process of its own that reads its units from the file `spec`."""

    def __init__(self, process: "subprocess.Popen[str]", spec: Path) -> None:
        assert process.stdout is not None
        self.pid = process.pid
        self._process, self._says, self._spec = process, process.stdout, spec
        self._listen()

    def fail_beside(self, workers: Workers, count: int) -> None:
        """From now on so many workers more are known, which were killed for memory."""
        units = dict(map(_unit, _cgroups(workers)))
        failed = dict(_failed(number, workers) for number in range(count))
        self._spec.write_text(_listing({**units, **failed}))
        self._process.send_signal(signal.SIGHUP)
        self._listen()

    def _listen(self) -> None:
        if not self._says.readline():
            raise UserError("the stand-in for systemd ended; its last words are above")


@contextlib.contextmanager
def running_bus(workers: Workers) -> Iterator[Bus]:
    """A system bus, for all that is started meanwhile, on which `workers` are active units.

    Raises UserError when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        path, spec = Path(folder, "socket"), Path(folder, "units.json")
        spec.write_text(_listing(dict(map(_unit, _cgroups(workers)))))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_systemd", str(path), str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
        try:
            bus = Bus(process, spec)
            with environment({_ADDRESS: f"unix:path={path}"}):
                yield bus
        finally:
            end(process)
            if process.stdout is not None:
                process.stdout.close()


def _listing(units: Mapping[str, Properties]) -> str:
    return json.dumps({"units": units})


def _cgroups(workers: Workers) -> Iterator[str]:
    """The cgroups of the workers, as systemd writes them: below the cgroup root."""
    return (directory.removeprefix(workers.root) for directory in workers.directories)


def _unit(cgroup: str) -> tuple[str, Properties]:
    """The name and the properties of the unit that a worker's cgroup is."""
    *_, slice_name, name = cgroup.split("/")
    return name, {
        "Description": f"/usr/bin/python3 -m server {name}",
        "ActiveState": "active",
        "SubState": "running",
        "Slice": slice_name,
        "ControlGroup": cgroup,
    }


def _failed(number: int, workers: Workers) -> tuple[str, Properties]:
    """A unit that was killed, of the service that the first of the workers is of."""
    slice_name = os.path.basename(os.path.dirname(workers.directories[0]))
    name = f"{slice_name.removesuffix('.slice')}@failed{number}.service"
    return name, {
        "Description": f"/usr/bin/python3 -m server {name}",
        "ActiveState": "failed",
        "SubState": "failed",
        "Result": "oom-kill",
        "Slice": slice_name,
        "ControlGroup": "",
        "ExecMainCode": 2,
        "ExecMainStatus": 9,
        "ExecMainExitTimestampMonotonic": 3_000_000,
        "CPUUsageNSec": 1_000_000_000,
    }
