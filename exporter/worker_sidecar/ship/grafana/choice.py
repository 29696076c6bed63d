"""Which Grafana answers, and by which of its APIs to speak with it."""

from collections.abc import Collection, Mapping
from typing import Any

from worker_exporter import log
from worker_sidecar.errors import InputError
from worker_sidecar.ship.errors import WrongServerError
from worker_sidecar.ship.grafana.api import Grafana
from worker_sidecar.ship.grafana.classic import Classic
from worker_sidecar.ship.grafana.resources import DASHBOARDS, FOLDERS, Resources
from worker_sidecar.ship.http import Server

AUTO = "auto"
CLASSIC = "classic"
RESOURCES = "resources"

_STABLE = ("v1",)
_USABLE = ("v1", "v1beta1")
"""Versions with one spec: the dashboard's JSON model. v2 has another, v0alpha1 is no promise."""


def choose(server: Server, wanted: str = AUTO) -> Grafana:
    """An API of the Grafana at `server`: `wanted`, else the resource API where it is stable.

    Raises WrongServerError for what is no Grafana, InputError for an API that it does not have.
    """
    version = _version(server)
    grafana = _chosen(server, wanted)
    log.info("Grafana answers", url=server.url, version=version, api=grafana.name)
    return grafana


def _chosen(server: Server, wanted: str) -> Grafana:
    if wanted == CLASSIC:
        return Classic(server)
    known = _STABLE if wanted == AUTO else _USABLE
    dashboards, folders = _offered(server, DASHBOARDS, known), _offered(server, FOLDERS, _USABLE)
    if dashboards is not None and folders is not None:
        return Resources(server, _namespace(server), dashboards, folders)
    if wanted == AUTO:
        return Classic(server)
    raise InputError(
        f"this Grafana has no {DASHBOARDS} in a version of {', '.join(_USABLE)}; use --api classic"
    )


def _version(server: Server) -> str:
    """Of /api/health, which needs no credentials."""
    try:
        health = server.get("/api/health").json()
    except WrongServerError as error:
        raise WrongServerError(f"{server.url} is no Grafana: {error}") from None
    if "database" not in health:
        raise WrongServerError(f"{server.url} is no Grafana: its /api/health is another's")
    return str(health.get("version", "hidden"))


def _offered(server: Server, group: str, known: Collection[str]) -> str | None:
    """The first version of `known` that the API group has."""
    answer = server.get(f"/apis/{group}", expected=(403, 404, 406))
    if answer.status != 200:
        return None
    versions = [version.get("version") for version in answer.json().get("versions") or []]
    return next((version for version in known if version in versions), None)


def _namespace(server: Server) -> str:
    """Of /api/frontend/settings: default, org-N or, in Grafana Cloud, stacks-N."""
    settings: Mapping[str, Any] = server.get("/api/frontend/settings").json()
    return str(settings.get("namespace") or "default")
