"""schemathesis asks the real program everything that its own OpenAPI document allows, and more."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real.serving import PATIENCE, TOKEN, Ground, Server, made_ground
from tests.tools import missing

SLICE = f"openapitest{os.getpid()}.slice"
EXAMPLES = 15
"""Test cases for each operation in each phase: this runs for some seconds, not minutes."""

EXCLUDED = "use_after_free,ensure_resource_availability"
"""Checks that do not know that a kill removes a worker, nor that its output outlives it."""

WORKERS = f"""\
slice: {SLICE}
services:
  llm:
    command: [sleep, "1000"]
    user: root
    parameters:
      color: {{type: string, default: red, choices: [red, blue]}}
"""

# The real program but for its rate limits: they would answer nearly everything.
SERVE = """
import sys
from worker_exporter import log
from worker_exporter.web.listen import Address
from worker_sidecar.api import Rates, ServeSettings, serve
from worker_sidecar.spec import load
log.setup("info", "logfmt")
free = Address("127.0.0.1", 0)
serve(
    ServeSettings(
        load=lambda: load(sys.argv[1]),
        launcher="cgroupfs",
        listen=(free,),
        token_file=sys.argv[2],
        telemetry=free,
        rates=Rates(1e6, 10**6, 1e6, 10**6),
    )
)
"""


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with made_ground(tmp_path, SLICE, WORKERS) as ground:
        yield ground


def narrowed(document: Any) -> Any:
    """The document, less what no tool can know: that output which is followed has no end, and
    which parameters a service of workers.yaml has.
    """
    logs = document["paths"]["/api/v1/workers/{service}/{instance}/logs"]["get"]
    logs["parameters"] = [one for one in logs["parameters"] if one["name"] != "follow"]
    document["components"]["schemas"]["DeclaredStart"]["properties"]["parameters"] = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "additionalProperties": False,
    }
    return document


def test_every_answer_is_as_the_document_says(ground: Ground) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    if not schemathesis.exists():
        missing("schemathesis is not installed")
    command = [sys.executable, "-c", SERVE, str(ground.file), str(ground.token)]
    with ground.running(command) as server:
        document = ground.folder / "openapi.json"
        document.write_text(json.dumps(narrowed(server.ask("GET", "/openapi.json")[1])))
        done = subprocess.run(
            [
                *(str(schemathesis), "run", str(document)),
                *("--url", f"http://127.0.0.1:{server.tcp}"),
                *("--header", f"Authorization: Bearer {TOKEN}"),
                *("--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure"),
                *("--request-timeout", "20", "--exclude-checks", EXCLUDED),
            ],
            cwd=ground.folder,
            env={**os.environ, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert was_started(server), "no worker was ever started: the test says little"
        assert "level=error" not in "".join(server.log.lines)


def was_started(server: Server) -> bool:
    return 'worker_sidecar_launches_total{result="started",service="llm"}' in server.metrics()
