"""The run on the sidecar's systemd launcher: `python -m inside.sidecar_systemd RESULTS`."""

import sys
from pathlib import Path

from . import sidecar_systemd_end as end
from . import sidecar_systemd_limits as limits
from . import sidecar_systemd_start as start
from . import sidecar_systemd_user as user
from .report import Report
from .workers import start_user_manager

CHECKS = (
    start.worker_starts,
    start.second_start_is_refused,
    start.words_arrive_as_written,
    start.shell_words_arrive_as_written,
    start.metadata_of_another_users_worker,
    start.delegated_worker_cannot_lie_about_its_start,
    start.pasted_lines_start_the_same,
    start.worker_that_ends_at_once,
    start.bad_starts_leave_nothing,
    start.secrets_are_secret,
    limits.every_limit_is_in_the_kernel,
    limits.given_limits_replace_those_before,
    limits.cpu_hog_gets_its_quota,
    limits.memory_hog_is_killed_and_told,
    limits.disk_hog_gets_its_bandwidth,
    limits.totals_outlive_their_workers,
    limits.restarts_are_counted,
    limits.crash_loop_ends_as_a_failure,
    end.polite_end,
    end.deaf_worker_is_killed_after_the_grace,
    end.longer_grace_is_kept,
    end.kill_is_not_answered_by_a_restart,
    end.crash_loop_can_be_stopped,
    end.bombs_and_daemons_leave_nothing,
    end.stuck_worker_is_told,
    end.output_is_read,
    end.killed_sidecar_loses_nothing,
    user.users_worker_starts,
    user.users_metadata_outlives_restarts,
    user.users_output_is_read,
    user.users_workers_end,
    user.user_is_told_what_only_root_may,
    end.down_leaves_nothing,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json in `results`."""
    start_user_manager()
    report = Report(results / "checks.json")
    for check in CHECKS:
        report.run(check.__name__, check)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
