"""What can go wrong at somebody else's server; each is one line of text."""

from worker_sidecar.errors import NotFoundError, RefusedError, SidecarError


class ServerError(SidecarError):
    """The server did not answer, or not with what was asked for."""

    kind = "server"


class DeniedError(RefusedError):
    """The server does not know us, or does not let us."""

    kind = "denied"


class WrongServerError(NotFoundError):
    """What answers at the URL is not the server that is meant."""

    kind = "wrong-server"


class ConflictError(ServerError):
    """Somebody else changed the same thing meanwhile."""

    kind = "conflict"
