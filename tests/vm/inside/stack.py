"""The run on docker-compose.yml under a real Docker: `python -m inside.stack RESULTS`."""

import sys
from pathlib import Path

from . import stack_checks as stack
from . import stack_workers as hosts
from .report import Report, say
from .stack_images import make_images
from .stack_scene import compose, docker_engine

WITHOUT_WORKERS = (
    stack.comes_up,
    stack.all_are_well,
    stack.image_has_no_more_than_it_needs,
    stack.all_are_confined,
    stack.only_loopback_is_served,
    stack.grafana_has_what_it_reads,
    stack.exporter_has_nothing_to_complain_of,
    stack.node_is_the_host,
    stack.rules_are_loaded,
    stack.changed_rules_are_seen,
)
WITH_WORKERS = (
    hosts.workers_reach_prometheus,
    hosts.units_need_one_more_file,
    hosts.figures_are_the_hosts,
    hosts.foreign_namespaces_are_told,
    stack.alerts_reach_alertmanager,
    hosts.exporter_ends_at_once,
    hosts.host_without_a_name_is_refused,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json in `results`."""
    report = Report(results / "checks.json")
    with docker_engine():
        say("Docker runs")
        make_images()
        say("its images are there")
        for check in WITHOUT_WORKERS:
            report.run(check.__name__, check)
        with hosts.workers():
            say("the workers run")
            for check in WITH_WORKERS:
                report.run(check.__name__, check)
        print(compose("logs", "--no-color", "--tail=20").stdout, flush=True)
        report.run("down_leaves_nothing", hosts.down_leaves_nothing)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
