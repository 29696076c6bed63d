"""What panels show where it is easy to get wrong, by Prometheus' own engine (promtool)."""

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from tests.queries import dashboards, interpolated, queries
from tests.tools import require

QUERIES = {
    query.place: query for name, each in dashboards().items() for query in queries(name, each)
}
ALL = dict.fromkeys(("node", "service", "gpu"), ".+")
ONE = {"node": "a", "service": "c++", "instance": "8080"}

EXPORTER = 'up{job="worker-exporter",node="a"}'
DECLARED, UP, START = (
    f'worker_{name}{{node="a",service="c++",instance="8080"}}'
    for name in ("desired", "up", "start_time_seconds")
)

NOW = "worker / Now / A"
UPTIME = "worker / Uptime / A"
DOWN = "fleet / Down / A"
ANSWERING, SILENT = "fleet / Exporters / A", "fleet / Exporters / B"

STEADY = "x20"
GONE = "1x5 stale"

KILLED = 'worker_service_memory_events_total{node="a",service="c++",event="oom_kill"}'
KILLED_AT_BIRTH = 'service:worker_oom_kills_at_birth:min3m{node="a",service="c++"}'
KILLED_ON_FLEET, KILLED_OF_SERVICE = "fleet / In this time range / A", "service / OOM kills / A"

GPU = 'node="a",gpu="{}",uuid="GPU-{}"'
FOREIGN = {f"worker_node_gpu_unattributed_memory_bytes{{{GPU.format(n, n)}}}": "3" for n in "01"}

HOLDERS = {
    f'worker_gpu_memory_used_bytes{{{GPU.format(0, 0)},service="llm",instance="{number}"}}': (
        f"{number}{STEADY}"
    )
    for number in range(1, 46)
}
"""45 workers that hold 1, 2, 3, … bytes."""

PROCESSES = {
    f'worker_processes{{node="a",service="c++",instance="{number}"}}': f"{number}{STEADY}"
    for number in range(1, 46)
}
"""As many with 1, 2, 3, … processes."""


def show(
    folder: Path,
    place: str,
    chosen: Mapping[str, str],
    series: Mapping[str, str],
    figures: Sequence[float],
) -> None:
    """Whether a panel's query finds just these figures, 15 minutes after the first sample."""
    expression = interpolated(QUERIES[place].expression, chosen)
    expected = [
        {"labels": f'{{value="{figure}"}}', "value": count}
        for figure, count in Counter(figures).items()
    ]
    test = {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values if "x" in values else values + STEADY}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count_values("value", {expression})',
                "eval_time": "15m",
                "exp_samples": expected,
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    told = subprocess.run(
        [require("promtool"), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(
    ("place", "series", "figures"),
    [
        pytest.param(NOW, {EXPORTER: "1", DECLARED: "1", UP: "1"}, [1], id="it runs"),
        pytest.param(NOW, {EXPORTER: "1", DECLARED: "1", UP: "0"}, [0], id="it is down"),
        pytest.param(NOW, {EXPORTER: "1", DECLARED: "1"}, [0], id="it was never there"),
        pytest.param(NOW, {EXPORTER: "1", DECLARED: "0", UP: "0"}, [-1], id="it was stopped"),
        pytest.param(NOW, {EXPORTER: "1", UP: "0"}, [-2], id="it has ended"),
        pytest.param(NOW, {EXPORTER: "0", DECLARED: "1", UP: GONE}, [], id="nobody knows"),
        pytest.param(UPTIME, {UP: "1", START: "300"}, [600], id="it has run for ten minutes"),
        pytest.param(UPTIME, {UP: "0", START: "300"}, [], id="it runs no more"),
    ],
)
def test_a_worker(
    tmp_path: Path, place: str, series: Mapping[str, str], figures: Sequence[float]
) -> None:
    """Its service has a name that is no regular expression."""
    show(tmp_path, place, ONE, series, figures)


@pytest.mark.parametrize(
    ("place", "series", "figures"),
    [
        pytest.param(DOWN, {EXPORTER: "1", DECLARED: "1", UP: "1"}, [0], id="none is down"),
        pytest.param(DOWN, {EXPORTER: "1", DECLARED: "1", UP: "0"}, [1], id="one is down"),
        pytest.param(DOWN, {EXPORTER: "0", DECLARED: "1", UP: GONE}, [], id="nobody knows"),
        pytest.param(ANSWERING, {EXPORTER: "1"}, [1], id="it answers"),
        pytest.param(SILENT, {EXPORTER: "1"}, [0], id="none is silent"),
        pytest.param(ANSWERING, {EXPORTER: "0"}, [0], id="none answers"),
        pytest.param(SILENT, {EXPORTER: "0"}, [1], id="it is silent"),
        pytest.param(SILENT, {EXPORTER: GONE}, [1], id="its own agent is silent"),
        pytest.param("exporter / Exporters / B", {EXPORTER: GONE}, [1], id="there too"),
        pytest.param("gpu / Unattributed / A", FOREIGN, [3], id="by GPU, as its alert"),
    ],
)
def test_the_fleet(
    tmp_path: Path, place: str, series: Mapping[str, str], figures: Sequence[float]
) -> None:
    show(tmp_path, place, ALL, series, figures)


@pytest.mark.parametrize(
    ("series", "figures"),
    [
        pytest.param({KILLED: "0x10 2x20"}, [2], id="it is seen to happen"),
        pytest.param({KILLED: "2x20"}, [0], id="it was before"),
        pytest.param({KILLED: "_x10 2x9", KILLED_AT_BIRTH: "_x10 2x3"}, [2], id="it comes first"),
        pytest.param({KILLED: "_x5 1x5 3x9", KILLED_AT_BIRTH: "_x5 1x3"}, [3], id="then another"),
        pytest.param({KILLED: "_x14 2x9", KILLED_AT_BIRTH: "_x14 2x3"}, [2], id="it is all"),
    ],
)
@pytest.mark.parametrize(
    ("place", "chosen"),
    [
        (KILLED_ON_FLEET, ALL),
        (KILLED_OF_SERVICE, {"node": ".+", "service": "c++"}),
    ],
)
def test_a_kill_for_memory(
    tmp_path: Path,
    place: str,
    chosen: Mapping[str, str],
    series: Mapping[str, str],
    figures: Sequence[float],
) -> None:
    show(tmp_path, place, chosen, series, figures)


def test_a_graph_has_the_lines_that_came_highest(tmp_path: Path) -> None:
    chosen = {"node": ".+", "service": "c++"}
    show(tmp_path, "service / Processes / A", chosen, PROCESSES, range(6, 46))


def test_one_that_is_low_again_keeps_its_line(tmp_path: Path) -> None:
    [first, *others] = PROCESSES
    series = {first: "0x8 99x1 2x9", **{name: PROCESSES[name] for name in others}}
    show(
        tmp_path,
        "service / Processes / A",
        {"node": ".+", "service": "c++"},
        series,
        [2, *range(7, 46)],
    )


def test_a_gpus_memory_adds_up_without_a_line_for_each(tmp_path: Path) -> None:
    place = "gpu / Memory of GPU $gpu"
    show(tmp_path, f"{place} / A", ALL, HOLDERS, range(6, 46))
    show(tmp_path, f"{place} / B", ALL, HOLDERS, [1 + 2 + 3 + 4 + 5])
