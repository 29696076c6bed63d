"""The run on the sidecar as a service: `python -m inside.sidecar_service RESULTS`."""

import subprocess
import sys
from pathlib import Path

from . import sidecar_service_checks as service
from .report import Report
from .sidecar_service_scene import UNIT

CHECKS = (
    service.service_starts_what_is_declared,
    service.exporter_sees_what_is_declared,
    service.own_metrics,
    service.socket_is_for_its_group,
    service.second_service_is_refused,
    service.ten_equal_requests_start_one,
    service.bad_requests_start_nothing,
    service.output_is_followed,
    service.deliberate_stop_stays,
    service.workers_outlive_the_service,
    service.dead_worker_comes_back_at_reload,
    service.bad_file_changes_nothing,
    service.doctor_is_content,
    service.killed_at_random_moments,
    service.killed_in_the_middle_of_a_stop,
    service.socket_activation,
    service.tcp_wants_the_token,
    service.down_leaves_nothing,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json in `results`; the service's log is on the console."""
    report = Report(results / "checks.json")
    try:
        for check in CHECKS:
            report.run(check.__name__, check)
    finally:
        subprocess.run(["journalctl", "--no-pager", "-o", "cat", "-n", "150", f"--unit={UNIT}"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
