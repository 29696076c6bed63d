"""The OpenAPI 3.1 document of the API, from its operations and models."""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from worker_exporter import __version__
from worker_sidecar.api import models
from worker_sidecar.api.operations import OPERATIONS, Document, Operation, Text

_REF = "#/components/schemas/{model}"
_RETRY = {
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_NAMES: Mapping[str, Any] = {"service": models.ServiceName, "instance": models.InstanceName}

Json = dict[str, Any]


def document(operations: Iterable[Operation] = OPERATIONS) -> Json:
    """The whole document, as JSON has it."""
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "worker-sidecar",
            "version": __version__,
            "summary": "Start, stop and look at the workers of one host.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP only; over the Unix socket its mode decides.",
                }
            },
        },
    }


def _operation(operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {str(operation.status): _answer(operation)}
        | {str(status): _problem(status) for status in operation.all_problems},
    }
    parameters = [*_path_parameters(operation.path), *_query_parameters(operation.query)]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = operation.body.json_schema(ref_template=_REF)
        schema.pop("$defs", None)
        described["requestBody"] = {"required": True, "content": _json(schema)}
    return described


def _answer(operation: Operation) -> Json:
    answer: Json = {"description": HTTPStatus(operation.status).phrase}
    if operation.answer is Text:
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif operation.answer is Document:
        answer["content"] = _json({"type": "object"})
    else:
        answer["content"] = _json(_ref(operation.answer.__name__))
    if operation.headers:
        answer["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in operation.headers.items()
        }
    return answer


def _problem(status: int) -> Json:
    problem: Json = {
        "description": HTTPStatus(status).phrase,
        "content": _json(_ref(models.Problem.__name__)),
    }
    return problem | {"headers": _RETRY} if status in (429, 503) else problem


def _path_parameters(path: str) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", path):
        yield _parameter(name, "path", TypeAdapter(_NAMES[name]).json_schema(), required=True)


def _query_parameters(query: type[BaseModel]) -> Iterator[Json]:
    for name, schema in query.model_json_schema().get("properties", {}).items():
        yield _parameter(name, "query", _without_null(schema), required=False)


def _parameter(name: str, place: str, schema: Json, *, required: bool) -> Json:
    description = schema.pop("description", "")
    schema.pop("title", None)
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": schema,
    }


def _without_null(schema: Json) -> Json:
    """A parameter of a URL can be left out, but not be null."""
    choices = [choice for choice in schema.pop("anyOf", ()) if choice != {"type": "null"}]
    if schema.get("default", ...) is None:
        del schema["default"]
    for choice in choices:
        schema = choice | schema
    return schema


def _schemas(operations: Iterable[Operation]) -> Json:
    answers = {models.Problem} | {
        operation.answer for operation in operations if issubclass(operation.answer, BaseModel)
    }
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in (models.DeclaredStart, models.FreeStart)),
        *((model, "serialization") for model in sorted(answers, key=lambda model: model.__name__)),
    ]
    _, definitions = models_json_schema(modes, ref_template=_REF)
    schemas: Json = definitions["$defs"]
    return schemas


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(model=name)}
