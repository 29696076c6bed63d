"""The run on alerts, from a kill to who is told: `python -m inside.alerts RESULTS`."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from . import alerts_checks as alerts
from .alerts_scene import FOLDER, running_scene
from .report import Report, say

CHECKS = (
    alerts.everything_is_scraped,
    alerts.oom_kill_is_told,
    alerts.failed_unit_is_told,
    alerts.every_query_finds_something,
    alerts.dead_worker_is_told,
    alerts.stopped_worker_is_silent,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json and the servers' logs in `results`."""
    report = Report(results / "checks.json")
    try:
        with running_scene() as scene:
            say("everything runs")
            for check in CHECKS:
                report.run(check.__name__, partial(check, scene))
            for complaint in scene.prometheus.complaints():
                say(f"Prometheus: {complaint}")
    finally:
        for name in ("prometheus", "alertmanager"):
            shutil.copy(FOLDER / name / f"{name}.log", results)
        subprocess.run(["journalctl", "--no-pager", "-o", "cat", "-n", "100", "-u", "worker-*"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
