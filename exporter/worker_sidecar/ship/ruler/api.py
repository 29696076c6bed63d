"""The ruler API: rule groups by namespace, in Mimir's, Cortex' and Grafana's spelling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker_exporter import log
from worker_sidecar.errors import InputError
from worker_sidecar.ship.compare import yaml_text
from worker_sidecar.ship.errors import WrongServerError
from worker_sidecar.ship.http import Answer, Server, part
from worker_sidecar.ship.rules import Group

MIMIR = "/prometheus/config/v1/rules"
"""Mimir, Grafana Cloud's Prometheus, and newer Cortex."""

CORTEX = "/api/v1/rules"
_CONVERT = "/api/convert" + MIMIR
"""Grafana 12: the same API for Grafana-managed rules."""

_NO_GROUPS = "no rule groups found"
"""What a ruler says with 404 where there are no rules yet."""

_TOO_MANY = "rules per rule group limit"


@dataclass(frozen=True, slots=True)
class Ruler:
    """A ruler API below `path`. `as_json`: Grafana wants JSON where the others want YAML."""

    server: Server
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    as_json: bool = False

    def groups(self, namespace: str) -> Sequence[Group]:
        """The rule groups of `namespace`; none where there is no such namespace."""
        answer = self.server.get(self.path, self.query, expected=(404,))
        if answer.status == 404:
            if _NO_GROUPS in answer.said:
                return []
            raise WrongServerError(f"{self.server.url}{self.path}: {_NO_RULER}")
        groups = _namespaces(answer).get(namespace) or []
        return [group for group in groups if isinstance(group, Mapping)]

    def put(self, namespace: str, group: Group) -> None:
        """Create a group, or put it in the place of the one of its name."""
        path = f"{self.path}/{part(namespace)}"
        text = None if self.as_json else yaml_text(group)
        document = dict(group) if self.as_json else None
        answer = self.server.ask(
            "POST", path, query=self.query, document=document, text=text, expected=(400, 422)
        )
        if answer.status in (400, 422):
            advice = "; --max-rules makes smaller groups" if _TOO_MANY in answer.said else ""
            raise InputError(f"the ruler refuses {group['name']}: {answer.said}{advice}")

    def delete(self, namespace: str, group: str) -> None:
        """Delete a group; it may be gone already."""
        path = f"{self.path}/{part(namespace)}/{part(group)}"
        self.server.ask("DELETE", path, query=self.query, expected=(404,))


_NO_RULER = "there is no ruler API; it may be off (-ruler.enable-api), or the URL lacks a path"


def ruler_at(server: Server) -> Ruler:
    """The ruler API of `server` itself, as Mimir or as Cortex has it. Raises WrongServerError."""
    for path in (MIMIR, CORTEX):
        answer = server.get(path, expected=(404, 405))
        if answer.status == 200 and _is_prometheus(answer):
            raise WrongServerError(
                f"{server.url} is a Prometheus, which takes rules from files only: use --directory"
            )
        if answer.status == 200 or _NO_GROUPS in answer.said:
            log.info("ruler answers", url=server.url, path=path)
            return Ruler(server, path)
    raise WrongServerError(f"{server.url}: {_NO_RULER}")


def ruler_behind(server: Server, data_source: str) -> Ruler:
    """The ruler of a data source of the Grafana at `server`: Mimir's, Cortex' or Loki's.

    Raises InputError for a data source that is none of Prometheus' kind.
    """
    answer = server.get(f"/api/datasources/uid/{part(data_source)}", expected=(403, 404))
    if answer.status == 404:
        raise InputError(f"this Grafana has no data source with the uid {data_source}")
    # 403: who may write rules may still not look at data sources; most rulers are a Mimir's
    source = {} if answer.status == 403 else answer.json()
    if source.get("type", "prometheus") != "prometheus":
        raise InputError(
            f"the data source {data_source} is of type {source['type']}, no Prometheus"
        )
    kind = str((source.get("jsonData") or {}).get("prometheusType") or "Mimir").lower()
    subtype = kind if kind in ("mimir", "cortex") else "mimir"
    path = f"/api/ruler/{part(data_source)}/api/v1/rules"
    return Ruler(server, path, {"subtype": subtype}, as_json=True)


def ruler_within(server: Server) -> Ruler:
    """The ruler of the Grafana at `server` itself: its alerting, by its API for mimirtool.

    The data source that the rules ask is named by a header, see managed_headers().
    """
    answer = server.get(_CONVERT, expected=(404,))
    if answer.status == 404 and _NO_GROUPS not in answer.said:
        raise WrongServerError(
            f"{server.url} does not take Prometheus' rules for its own: that needs Grafana 12"
        )
    return Ruler(server, _CONVERT)


def managed_headers(data_source: str) -> dict[str, str]:
    """What a request to ruler_within() carries."""
    return {
        "X-Grafana-Alerting-Datasource-UID": data_source,
        "X-Grafana-Alerting-Target-Datasource-UID": data_source,
    }


def _namespaces(answer: Answer) -> Mapping[str, Any]:
    return answer.yaml()  # JSON is YAML, too


def _is_prometheus(answer: Answer) -> bool:
    return answer.yaml().get("status") == "success"
