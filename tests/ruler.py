"""A stand-in ruler: Mimir's, Cortex', and Grafana's two ways to one.

It answers as pkg/ruler/api.go of Mimir and pkg/services/ngalert/api/lotex_ruler.go of Grafana.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.standin import JSON, Reply, Request, replied

MIMIR = "/prometheus/config/v1/rules"
CORTEX = "/api/v1/rules"
BEHIND = "/api/ruler/mimir-1/api/v1/rules"
WITHIN = "/api/convert/prometheus/config/v1/rules"


@dataclass
class Ruler:
    """Groups by tenant and namespace, below `path`. `limit`: the most rules that a group may have.

    `source`: what Grafana says of the data source, where the ruler is behind one.
    """

    path: str = MIMIR
    limit: int | None = None
    source: dict[str, Any] | None = None
    namespaces: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Reply:
        if request.path == "/api/datasources/uid/mimir-1" and self.source is not None:
            return replied(200, self.source)
        if not f"{request.path}/".startswith(f"{self.path}/"):
            return Reply(404, b"404 page not found\n", "text/plain")
        tenant = self.namespaces.setdefault(request.headers.get("X-Scope-OrgID", "anonymous"), {})
        names = request.parts[self.path.count("/") :]
        if request.method == "GET":
            return self._list(tenant)
        if request.method == "POST":
            return self._put(tenant, names[0], request)
        groups = tenant.get(names[0], [])
        tenant[names[0]] = [group for group in groups if group["name"] != names[1]]
        return replied(202, {"status": "success"})

    def groups(self, tenant: str, namespace: str) -> dict[str, int]:
        """How many rules each group has."""
        kept = self.namespaces.get(tenant, {}).get(namespace, [])
        return {group["name"]: len(group["rules"]) for group in kept}

    def _list(self, tenant: Mapping[str, Any]) -> Reply:
        kept = {name: groups for name, groups in tenant.items() if groups}
        if not kept:
            return Reply(404, b"no rule groups found\n", "text/plain")
        if self.path == BEHIND:
            return replied(200, kept)
        return Reply(200, yaml.safe_dump(kept).encode(), "application/yaml")

    def _put(
        self, tenant: dict[str, list[dict[str, Any]]], namespace: str, request: Request
    ) -> Reply:
        wants_json = self.path == BEHIND
        if wants_json != (request.headers["Content-Type"] == JSON.partition(";")[0]):
            return Reply(400, b"unable to decode rule group", "text/plain")
        group = request.json if wants_json else yaml.safe_load(request.body)
        count = len(group["rules"])
        if self.limit is not None and count > self.limit:
            words = f"per-user rules per rule group limit (limit: {self.limit} actual: {count})"
            return Reply(400, f"{words} exceeded\n".encode(), "text/plain")
        others = [kept for kept in tenant.get(namespace, []) if kept["name"] != group["name"]]
        tenant[namespace] = [*others, _spelled(group)]
        return replied(202, {"status": "success"})


def _spelled(group: Mapping[str, Any]) -> dict[str, Any]:
    """As a server written in Go gives it back: durations in its own spelling, empty keys kept."""
    rules = [{"for": "0s", "labels": {}, **rule} for rule in group["rules"]]
    for rule in rules:
        rule["for"] = "1m30s" if rule["for"] == "90s" else rule["for"]
    return {"source_tenants": [], "interval": "1m", **group, "rules": rules}
