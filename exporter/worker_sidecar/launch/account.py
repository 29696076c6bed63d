"""The system's account that a worker runs as."""

import os
import pwd
from dataclasses import dataclass

from worker_sidecar.errors import InputError, RefusedError


@dataclass(frozen=True, slots=True)
class Account:
    """`groups` are the supplementary ones. `switch`: it is another one than the caller's own.

    `name`, `home` and `shell` are None for a uid that the password database does not know.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    switch: bool
    name: str | None = None
    home: str | None = None
    shell: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a login would set, see environ(7)."""
        known = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        return {name: value for name, value in known.items() if value}


def account_of(user: str | None) -> Account:
    """The account of `user`, a name or a uid; None is the caller's own.

    A uid without an account gets the group of the same number. Raises InputError for a name that
    is not known, and RefusedError for another account than the caller's without root.
    """
    entry = _entry(str(os.geteuid()) if user is None else user)
    uid = int(user or os.geteuid()) if entry is None else entry.pw_uid
    switch = user is not None and (uid != os.geteuid() or uid == 0)
    if switch and os.geteuid() != 0:
        raise RefusedError(
            f"uid {os.geteuid()} cannot start a worker as user {user}: only root can, "
            "or leave user away"
        )
    if entry is None:
        return Account(uid, uid, (), switch)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(uid, entry.pw_gid, groups, switch, entry.pw_name, entry.pw_dir, entry.pw_shell)


def _entry(user: str) -> pwd.struct_passwd | None:
    number = int(user) if user.isascii() and user.isdigit() else None
    if number is not None and number >= 2**32 - 1:
        raise InputError(f"user {user} is no uid: it goes to {2**32 - 2}")
    try:
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        if number is None:
            raise InputError(f"there is no user {user!r} on this host") from None
        return None
