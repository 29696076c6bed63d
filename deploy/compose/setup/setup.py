"""What the stack has to know before it starts: this host's name, and a password for Grafana.

    setup.py TARGETS SECRETS

Prometheus can neither ask for the host's name nor take it from its environment, so this writes
what it scrapes here into the directory TARGETS, with the label `node`. It is the host's own name,
or NODE; SIDECAR is the address of a worker-sidecar on this host, if there is one. Into SECRETS goes
a password for Grafana's admin, unless there is one already.
"""

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

EXPORTER = "exporter:10390"
TARGETS = "this-host.json"
PASSWORD = "grafana-admin"
LOCAL = ("localhost", "127.")
"""How names begin that more than one host goes by."""


class SetupError(Exception):
    """What the user has to set right."""


def main(targets: Path, kept: Path, environment: Mapping[str, str], own: str) -> list[str]:
    """Write both, of a host that calls itself `own`; what there is to say. Raises SetupError."""
    name = node(environment, own)
    addresses = [EXPORTER, *sidecar(environment)]
    write(targets / TARGETS, json.dumps([{"targets": addresses, "labels": {"node": name}}]))
    if not (kept / PASSWORD).exists():
        write(kept / PASSWORD, secrets.token_urlsafe(18))
    return [
        f"Prometheus scrapes {' and '.join(addresses)} as node={name}",
        f"Grafana's admin: docker compose exec grafana cat {kept / PASSWORD}",
    ]


def node(environment: Mapping[str, str], own: str) -> str:
    """The name that sets this host apart. Raises SetupError for one that may not."""
    name = environment.get("NODE", "").strip() or own.strip()
    if not name or name.startswith(LOCAL):
        raise SetupError(
            f"the host is called {name!r}, as many are, and workers of two hosts of one name mix:"
            " put NODE=NAME into .env, and then docker compose up -d"
        )
    return name


def sidecar(environment: Mapping[str, str]) -> list[str]:
    """The address of the sidecar, if there is one. Raises SetupError for another port."""
    address = environment.get("SIDECAR", "").strip()
    if address and not address.endswith(":10391"):
        raise SetupError(
            f"SIDECAR={address} is not HOST:10391, by which Prometheus knows a sidecar:"
            " put SIDECAR=host.docker.internal:10391 into .env"
        )
    return [address] if address else []


def write(path: Path, text: str) -> None:
    """Put `text` there in one step: whoever reads the file meets the old or the new one whole."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    try:
        said = main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ, socket.gethostname())
    except SetupError as error:
        sys.exit(f"setup: error: {error}")
    print(*said, sep="\n")
