"""The listener of the sidecar's own metrics and health: three pages, and nothing else there."""

from collections.abc import Callable

from aiohttp import web

from worker_sidecar.metrics import SidecarMetrics

HEALTH_PATHS = ("/-/healthy", "/healthz")


def make_app(metrics: SidecarMetrics, healthy: Callable[[], str | None]) -> web.Application:
    """The application. `healthy` says in one line what is wrong, None when all is well; it is
    called in the event loop and must not block.
    """
    app = web.Application()

    async def get_metrics(request: web.Request) -> web.Response:
        body, content_type = metrics.exposition(", ".join(request.headers.getall("Accept", ())))
        return web.Response(body=body, headers={"Content-Type": content_type, "Vary": "Accept"})

    async def get_health(_: web.Request) -> web.Response:
        trouble = healthy()
        if trouble is None:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{trouble}\n")

    app.router.add_get("/metrics", get_metrics)
    for path in HEALTH_PATHS:
        app.router.add_get(path, get_health)
    return app
