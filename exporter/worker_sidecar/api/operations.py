"""Every operation of the API, a row each: the router and /openapi.json are made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter

from worker_sidecar.api import models

WORKERS = "/api/v1/workers"
WORKER = WORKERS + "/{service}/{instance}"

_ALWAYS = (400, 401, 429, 500, 503)
_OF_A_WORKER = (403, 404)


class Text:
    """An answer that is a stream of text rather than JSON."""


class Document:
    """An answer that is the OpenAPI document."""


Content = type[BaseModel | Text | Document]


@dataclass(frozen=True, slots=True)
class Operation:
    """`name` is its operationId and the name of its handler; `query` are the parameters of the
    URL, `body` what is sent, `status` and `answer` what comes of it, `problems` the status codes
    of its errors.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: Content
    status: int = 200
    query: type[BaseModel] = models.NoQuery
    body: TypeAdapter[Any] | None = None
    problems: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_problems(self) -> tuple[int, ...]:
        """The status codes of its errors, with those that every operation can have."""
        return tuple(sorted({*_ALWAYS, *self.problems}))


OPERATIONS = (
    Operation(
        name="list_workers",
        method="GET",
        path=WORKERS,
        summary="The workers below the slice, and declared ones that do not run.",
        query=models.ListQuery,
        answer=models.WorkerList,
    ),
    Operation(
        name="start_worker",
        method="POST",
        path=WORKERS,
        summary="Start a worker; it is no longer stopped on purpose.",
        body=models.START,
        status=201,
        answer=models.Worker,
        problems=(*_OF_A_WORKER, 408, 409, 413, 415),
        headers={"Location": "The worker's own path."},
    ),
    Operation(
        name="get_worker",
        method="GET",
        path=WORKER,
        summary="One worker.",
        answer=models.Worker,
        problems=_OF_A_WORKER,
    ),
    Operation(
        name="stop_worker",
        method="DELETE",
        path=WORKER,
        summary="Stop a worker; a declared one stays stopped until it is started again.",
        query=models.StopQuery,
        answer=models.EndedWorker,
        problems=_OF_A_WORKER,
    ),
    Operation(
        name="kill_worker",
        method="POST",
        path=WORKER + "/kill",
        summary="Stop a worker with SIGKILL at once.",
        answer=models.EndedWorker,
        problems=_OF_A_WORKER,
    ),
    Operation(
        name="get_logs",
        method="GET",
        path=WORKER + "/logs",
        summary="The output of a worker's last run.",
        query=models.LogsQuery,
        answer=Text,
        problems=_OF_A_WORKER,
    ),
    Operation(
        name="list_services",
        method="GET",
        path="/api/v1/services",
        summary="What can be started: the services of workers.yaml and their parameters.",
        answer=models.ServiceList,
    ),
    Operation(
        name="get_health",
        method="GET",
        path="/healthz",
        summary="Whether the API answers.",
        answer=models.Health,
    ),
    Operation(
        name="get_openapi",
        method="GET",
        path="/openapi.json",
        summary="This document.",
        answer=Document,
    ),
)
