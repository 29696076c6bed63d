"""Grafana's dashboards of workers, built in Python; their JSON is in dashboards/json."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards import exporter, fleet, gpu, service, worker

_ALL = {
    "fleet": fleet.built,
    "service": service.built,
    "worker": worker.built,
    "gpu": gpu.built,
    "exporter": exporter.built,
}


def files() -> dict[str, str]:
    """The JSON of every dashboard by its file's name; the same on each machine, at all times."""
    return {f"{name}.json": _encoded(built()) for name, built in _ALL.items()}


def _encoded(dashboard: models.Dashboard) -> str:
    content = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    # The library hides links and annotations in a menu, whatever it is told.
    for each in (*content["links"], *content["annotations"]["list"]):
        del each["placement"]
    return json.dumps(content, sort_keys=True, indent=1) + "\n"
