"""Who workers run as."""

import os
import pwd

from worker_sidecar.spec.model import ServiceEntry
from worker_sidecar.spec.problems import Key, Problem

_NOBODY = (65534, 65535)


def uid_of(user: str) -> int | None:
    """The uid of a user's name or of a uid in digits; None for a name that nobody has."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def examine(key: Key, entry: ServiceEntry) -> Problem | None:
    """What is wrong with the user of a service. A container's user is its image's to know."""
    own = os.geteuid()
    if entry.user is None:
        text = "has no user; give the one its workers run as (user: root if it has to be root)"
        return Problem(key, text) if own == 0 else None
    if entry.image is not None:
        return None
    uid = uid_of(entry.user)
    if uid is None:
        return Problem((*key, "user"), f"there is no user {entry.user!r} on this host")
    if own not in (0, uid):
        text = f"a sidecar of uid {own} cannot start workers as {entry.user}; leave user out"
        return Problem((*key, "user"), text)
    return None


def examine_for_secrets(
    key: Key, entry: ServiceEntry, others: dict[str, ServiceEntry]
) -> Problem | None:
    """Why the user of a service cannot keep its secrets from `others`, if that is so.

    A process can read the credentials of every other process of its uid.
    """
    if not entry.secrets and entry.secret_env is None:
        return None
    if entry.user is None or uid_of(entry.user) == 0:
        text = "has secrets, so its workers need a uid of their own: give a user that is not root"
        return Problem(key, text, refused=True)
    if uid_of(entry.user) in _NOBODY:
        text = f"{entry.user} is everybody's: with secrets give a user of the service's own"
        return Problem((*key, "user"), text, refused=True)
    for name, other in others.items():
        if _account(other) == _account(entry):
            text = f"service {name} runs as {entry.user} too and could read the secrets here"
            return Problem((*key, "user"), f"{text}; give each its own", refused=True)
    return None


def _account(entry: ServiceEntry) -> int | str | None:
    """Who a service runs as: a uid, else a name that only its image knows, else nobody knows."""
    if entry.user is None:
        return None if entry.image is not None else os.geteuid()
    uid = uid_of(entry.user)
    return entry.user if uid is None else uid
