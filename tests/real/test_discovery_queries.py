"""The queries of docs/discovery.md, on series as kube-state-metrics and cAdvisor have them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.tools import require

PAGE = Path(__file__).parents[2] / "docs/discovery.md"
UID = "1858680e-b044-4fd5-9dd4-f137e30e2180"
ID = "0123456789abcdef" * 4
SHORT = ID[:12]

CORES = "worker:worker_cpu_seconds:rate2m"
POD = {"node": "a", "service": "kubepods", "instance": UID.replace("-", "_")}
CONTAINER = {"node": "a", "service": UID, "instance": SHORT}
DOCKER = {
    "node": "a",
    "service": "docker",
    "instance": SHORT,
    "cgroup": f"system.slice/docker-{ID}.scope",
}
OF_KUBERNETES = {"instance": "ksm:8080", "uid": UID, "namespace": "shop", "pod": "web-0"}
OF_CADVISOR = {"node": "a", "instance": "a:8080", "id": f"/system.slice/docker-{ID}.scope"}


def series(metric: str, /, **labels: str) -> str:
    """A series as promtool writes it."""
    return metric + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


SERIES = {
    series(CORES, **POD): 2,
    series(CORES, **CONTAINER): 3,
    series(CORES, node="a", service="llm", instance="8080"): 4,
    series("kube_pod_info", **OF_KUBERNETES, node="x"): 1,
    series("kube_pod_info", **{**OF_KUBERNETES, "uid": "of-another"}, node="x"): 1,
    series(
        "kube_pod_container_info",
        **OF_KUBERNETES,
        container="server",
        container_id=f"containerd://{ID}",
    ): 1,
    series("worker_info", **DOCKER): 1,
    series("container_start_time_seconds", **OF_CADVISOR, name="web-1", image="nginx"): 1767225600,
    series("container_start_time_seconds", **{**OF_CADVISOR, "id": "/system.slice"}): 1767225600,
}
RESULTS = (
    (series("", **POD, uid=UID, namespace="shop", pod="web-0"), 2),
    (series("", **CONTAINER, namespace="shop", pod="web-0", container="server"), 3),
    (series("", **DOCKER, name="web-1", image="nginx"), 1),
)


def test_the_queries_put_names_to_ids(tmp_path: Path) -> None:
    queries = re.findall(r"^```promql\n(.*)\n```$", PAGE.read_text(), re.MULTILINE)
    assert len(queries) == len(RESULTS)
    checks: list[dict[str, Any]] = [
        {"expr": query, "eval_time": "1m", "exp_samples": [{"labels": labels, "value": value}]}
        for query, (labels, value) in zip(queries, RESULTS, strict=True)
    ]
    given = [{"series": name, "values": f"{value}x4"} for name, value in SERIES.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": checks}
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    said = subprocess.run(
        [require("promtool"), "test", "rules", str(file)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr
