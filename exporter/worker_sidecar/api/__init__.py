"""The sidecar as a service: HTTP for schedulers and people, on a Unix socket or TCP."""

from worker_sidecar.api.serve import serve
from worker_sidecar.api.settings import Rates, ServeSettings, default_socket

__all__ = ["Rates", "ServeSettings", "default_socket", "serve"]
