"""The OpenAPI document: complete, consistent, and what the API really does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from tests.unit.api_support import WORKERS, Scene, drive

from worker_sidecar.api.models import StateName
from worker_sidecar.api.openapi import document
from worker_sidecar.api.operations import OPERATIONS
from worker_sidecar.launch.launcher import State
from worker_sidecar.launch.names import INSTANCE, SERVICE
from worker_sidecar.reconcile import Absent


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    made = document()
    references = {str(node["$ref"]) for node in walk(made) if "$ref" in node}
    schemas = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert references == schemas


def test_it_is_json_and_without_null_defaults_of_parameters() -> None:
    made = json.loads(json.dumps(document()))
    for path in made["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                assert parameter["schema"].get("default", 0) is not None
                assert "anyOf" not in parameter["schema"]
                assert parameter["description"]


def test_the_parameters_of_a_path_are_described() -> None:
    for path, operations in document()["paths"].items():
        named = set(re.findall(r"{(\w+)}", path))
        for operation in operations.values():
            places = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert places == named


def test_the_words_for_states_and_names_are_those_of_the_core() -> None:
    assert get_args(StateName) == (*State, *Absent)
    names = document()["components"]["schemas"]["DeclaredStart"]["properties"]
    assert names["service"]["pattern"] == f"^{SERVICE.pattern}$"
    assert names["instance"]["pattern"] == f"^{INSTANCE.pattern}$"


def test_it_is_served_and_names_exactly_what_is_routed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        status, served = await scene.ask("GET", "/openapi.json")
        assert (status, served) == (200, json.loads(json.dumps(document())))
        described = {
            (method.upper(), path)
            for path, methods in served["paths"].items()
            for method in methods
        }
        routed = {
            (route.method, route.resource.canonical)
            for route in scene.runner.app.router.routes()
            if route.resource is not None
        }
        assert described == routed == {(one.method, one.path) for one in OPERATIONS}

    drive(tmp_path, scenario)


def test_every_answer_of_a_walk_through_the_api_is_described(tmp_path: Path) -> None:
    operations = {(one.method, one.name): one for one in OPERATIONS}
    body = {"service": "llm", "instance": "8080"}
    walked: tuple[tuple[str, str, str, object], ...] = (
        ("GET", "list_workers", WORKERS, None),
        ("POST", "start_worker", WORKERS, body),
        ("POST", "start_worker", WORKERS, body),
        ("POST", "start_worker", WORKERS, {}),
        ("GET", "get_worker", f"{WORKERS}/llm/8080", None),
        ("DELETE", "stop_worker", f"{WORKERS}/llm/8080", None),
        ("DELETE", "stop_worker", f"{WORKERS}/llm/8080", None),
        ("POST", "kill_worker", f"{WORKERS}/llm/cgroup.x/kill", None),
        ("GET", "get_health", "/healthz", None),
        ("GET", "list_services", "/api/v1/services", None),
    )

    async def scenario(scene: Scene) -> None:
        for method, name, path, sent in walked:
            operation = operations[method, name]
            status, _ = await scene.ask(method, path, sent)
            assert status in (operation.status, *operation.all_problems), (name, status)

    drive(tmp_path, scenario)
