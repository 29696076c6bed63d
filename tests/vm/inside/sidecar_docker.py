"""The sidecar's Docker launcher against a real daemon, with one of its cgroup drivers."""

from functools import partial
from pathlib import Path

from . import sidecar_docker_checks as checks
from .report import Report, say
from .sidecar_docker_daemon import dockerd
from .sidecar_docker_scene import Scene

CHECKS = (
    checks.driver_is_detected,
    checks.errors_leave_nothing,
    checks.worker_starts,
    checks.limits_are_on_both,
    checks.metadata_is_there,
    checks.exporter_sees_it,
    checks.second_start_is_refused,
    checks.output_is_read,
    checks.secrets_are_files,
    checks.volumes_are_mounted,
    checks.pasted_lines_do_the_same,
    checks.lost_limits_are_seen,
    checks.metadata_outlives_a_restart,
    checks.crashed_worker_comes_back,
    checks.stop_leaves_nothing,
    checks.kill_leaves_nothing,
    checks.stopped_by_hand_stays_stopped,
    checks.ten_starts_at_once,
    checks.want_of_memory_is_told,
    checks.failure_is_told,
    checks.killed_start_is_cleared,
    checks.killed_stop_is_finished,
    checks.parent_for_compose,
    checks.down_leaves_nothing,
)


def main(driver: str, results: Path) -> None:
    """Run every check, and leave checks.json and dockerd.log in `results`."""
    report = Report(results / "checks.json")
    log = results / "dockerd.log"
    with dockerd(driver, log) as daemon:
        say(f"dockerd runs with the driver {driver}")
        scene = Scene(driver, daemon)
        for check in CHECKS:
            report.run(check.__name__, partial(check, scene))
    print(log.read_text()[-6000:], flush=True)
