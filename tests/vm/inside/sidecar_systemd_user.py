"""Checks on a user's own manager: alice launches, and root looks."""

import json
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.systemd import SystemdLauncher, unavailable

from .sidecar_systemd_scene import (
    LAUNCHER,
    MIB,
    SITE,
    await_signal,
    dump_file,
    dumped,
    dumper,
    spec,
)
from .workers import MOUNT, UID, USER, USER_MANAGER, as_user, wait_for

TOP = MOUNT / USER_MANAGER / "worker.slice"
VALUE = "a $b; %h é"


def users_worker_starts() -> None:
    """In her manager, with metadata; what her manager may not limit is named."""
    limits = Limits(
        cpu=0.5,
        cpus="0",
        memory=256 * MIB,
        io=(IoLimit("/", write_bandwidth=1_000_000),),
        io_weight=50,
        tasks=50,
    )
    worker = dumper("hers", VALUE, metadata={"model": VALUE}, limits=limits, restart=Restart.ALWAYS)
    started = _alice("start", worker)
    assert (started["state"], started["launcher"]) == ("running", "systemd --user")
    assert started["cgroup"] == f"{USER_MANAGER}/worker.slice/worker-t.slice/{started['unit']}"
    assert started["unapplied"] == ["cpus", "io", "io_weight"], started["unapplied"]
    folder = MOUNT / started["cgroup"]
    assert (folder / "memory.max").read_text() == f"{256 * MIB}\n"
    assert (folder / "cpu.max").read_text() == "50000 100000\n"
    assert (folder / "pids.max").read_text() == "50\n"
    assert _alice("list") == [started]
    assert [each for each in LAUNCHER.list() if each.instance == "hers"] == []


def users_metadata_outlives_restarts() -> None:
    """There at the first instruction, after a restart, and after a reload of her manager."""
    for _ in range(2):
        found = dumped("hers")
        assert found["uid"] == UID
        assert found["arguments"] == [VALUE.encode().hex()]
        assert found["attributes"]["user.worker.model"] == VALUE
        dump_file("hers").unlink()
        subprocess.run(as_user(["systemctl", "--user", "daemon-reload"]), check=True)
        os.kill(found["pid"], 9)
        wait_for(dump_file("hers").exists, "the restart")
    (found,) = _alice("list")
    assert found["restarts"] == 2
    assert found["declaration"].startswith('{"argv":')


def users_output_is_read() -> None:
    """Her own journal has it."""
    _alice("start", spec("hertalk", "talk", "hers"))
    wait_for(lambda: "hers once" in _alice("logs", "hertalk"), "her worker's output")
    _alice("stop", "hertalk")
    assert "hers once" in _alice("logs", "hertalk")


def users_workers_end() -> None:
    """Killed after the grace, for want of memory, and by down(), which leaves nothing."""
    _alice("start", spec("herdeaf", "deaf"))
    wait_for(lambda: "deaf" in _alice("logs", "herdeaf").splitlines(), "her worker to be deaf")
    ended = _alice("stop", "herdeaf")
    assert (ended["forced"], ended["result"]) == (True, "signal")
    hog = _alice("start", spec("herhog", "hoard", limits=Limits(memory=48 * MIB)))
    await_signal(hog["pid"], "SigCgt", signal.SIGUSR1)
    os.kill(hog["pid"], signal.SIGUSR1)
    wait_for(lambda: _alice("status", "herhog")["state"] == "failed", "the end of her hog")
    assert _alice("status", "herhog")["result"] == "oom-kill"
    assert {each["instance"] for each in _alice("down")} == {"hers", "herhog"}
    assert _alice("list") == []
    assert not TOP.exists()
    assert not list(Path(f"/run/user/{UID}/systemd").glob("user.control/worker*"))


def user_is_told_what_only_root_may() -> None:
    """To start in the system's manager, or as another user."""
    answer = _alice("forced")
    assert answer["kind"] == "permission-denied", answer
    assert _alice("as_root")["kind"] == "refused"


def _alice(method: str, argument: "WorkerSpec | str | None" = None) -> Any:
    """What the launcher answers her."""
    given = asdict(argument) if isinstance(argument, WorkerSpec) else argument
    command = [sys.executable, "-m", "inside.sidecar_systemd_user", method, json.dumps(given)]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        as_user(["env", f"PYTHONPATH={root}", *command]), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{method} ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


def _answer(method: str, given: Any) -> Any:
    """As alice: call the launcher, and answer in JSON."""
    assert pwd.getpwuid(os.geteuid()).pw_name == USER
    assert unavailable() is None, unavailable()
    launcher = SystemdLauncher(SITE, user=method != "forced")
    if method in ("forced", "as_root"):
        worker = WorkerSpec("t", "x", ("true",), user="root" if method == "as_root" else None)
        try:
            return asdict(launcher.start(worker))
        except Exception as error:
            return {"kind": getattr(error, "kind", repr(error)), "text": str(error)}
    if method == "start":
        return asdict(launcher.start(_spec(given)))
    if method == "logs":
        stream = launcher.logs("t", given, 50, follow=False)
        pieces = iter(stream.read, b"")
        return b"".join(pieces).decode()
    if method == "stop":
        return asdict(launcher.stop("t", given, 0.5))
    if method == "status":
        return asdict(launcher.status("t", given))
    return [asdict(each) for each in (launcher.list() if method == "list" else launcher.down())]


def _spec(given: dict[str, Any]) -> WorkerSpec:
    limits = given["limits"]
    devices = tuple(IoLimit(**device) for device in limits.pop("io"))
    plain = {key: given[key] for key in ("service", "instance", "env", "metadata")}
    spec = WorkerSpec(
        **plain,
        argv=tuple(given["argv"]),
        limits=Limits(**limits, io=devices),
        restart=Restart(given["restart"]),
    )
    assert encode(spec)
    return spec


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1], json.loads(sys.argv[2]))))
