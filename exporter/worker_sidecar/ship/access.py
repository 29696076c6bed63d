"""Who we are at a server, and how we trust it; without the library that does the requests."""

from dataclasses import dataclass, field

PATIENCE = 30.0
"""Seconds that a server is given to come up or to recover, from the first request that failed."""

READ_TIMEOUT = 30.0
"""Seconds without a byte of an answer."""


@dataclass(frozen=True, slots=True)
class Access:
    """We are whom `token` says, or `user` and `password`, or nobody.

    The server's certificate must be signed by the CA in `ca_file`, by one that this host knows, or,
    `insecure`, by anybody.
    """

    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    insecure: bool = False
    patience: float = PATIENCE
    timeout: float = READ_TIMEOUT
