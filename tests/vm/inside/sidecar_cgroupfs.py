"""The run on the sidecar's plain cgroups: `python -m inside.sidecar_cgroupfs RESULTS`."""

import sys
from pathlib import Path

from . import sidecar_cgroupfs_checks as checks
from . import sidecar_cgroupfs_user as user
from .report import Report

CHECKS = (
    checks.every_limit_is_in_the_kernel,
    checks.limits_above_are_replaced_and_kept,
    checks.exporter_finds_the_worker,
    checks.cpu_hog_gets_its_quota,
    checks.cpuset_is_kept,
    checks.memory_hog_is_killed_and_told,
    checks.disk_hog_gets_its_bandwidth,
    checks.oom_score_is_lowered,
    checks.restart_is_refused,
    checks.deaf_worker_is_killed_after_the_grace,
    checks.bomb_and_daemon_leave_nothing,
    checks.bomb_loses_without_cgroup_kill,
    checks.stuck_worker_is_told,
    checks.delegated_worker_divides_its_limits,
    user.user_without_delegation_is_told,
    user.user_with_delegation_has_limits,
    checks.down_leaves_nothing,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json in `results`."""
    report = Report(results / "checks.json")
    for check in CHECKS:
        report.run(check.__name__, check)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
