"""A container's output, out of the daemon's stream of frames."""

import http.client
import socket
import threading
from contextlib import suppress

from worker_sidecar.errors import InputOutputError

_HEADER = 8
_PIECE = 65536


class ContainerLog:
    """The output of a container without a terminal, standard output and error as they come.

    A LogStream on the answer `response` that comes over `connection`. Each frame of the answer
    has a header: the stream, three zeros, and the length as four bytes, big endian (Engine API,
    "Attach to a container", stream format).
    """

    def __init__(self, connection: socket.socket, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._busy = threading.Lock()
        self._closed = False
        self._left = 0
        # with `follow` the next frame may be hours away
        connection.settimeout(None)

    def read(self) -> bytes:
        """See LogStream.read."""
        with self._busy:
            if self._closed:
                return b""
            try:
                return self._next()
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self._closed:
                    return b""
                reason = str(error) or type(error).__name__
                raise InputOutputError(f"the Docker daemon broke off the log: {reason}") from error

    def close(self) -> None:
        """See LogStream.close."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._busy:
            self._response.close()
            self._connection.close()

    def _next(self) -> bytes:
        while not self._left:
            header = self._response.read(_HEADER)
            if not header:
                return b""
            if len(header) < _HEADER:
                raise ValueError("a frame ends within its header")
            self._left = int.from_bytes(header[4:], "big")
        piece = self._response.read1(min(self._left, _PIECE))
        if not piece:
            raise ValueError("a frame ends before its length")
        self._left -= len(piece)
        return piece
