"""What only the API answers: why a request, rather than a worker, is refused."""

from worker_sidecar.errors import RefusedError, SidecarError


class UnauthorizedError(RefusedError):
    """The request came over TCP without the right bearer token."""

    status = 401
    kind = "unauthorized"


class TooManyRequestsError(SidecarError):
    """The peer, or all together, ask faster than is allowed; `wait` is in seconds."""

    status = 429
    kind = "rate-limited"

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class BusyError(SidecarError):
    """Too much is being done at once."""

    status = 503
    kind = "busy"
    wait = 1.0
