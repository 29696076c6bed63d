"""How people say which GPU they want."""

import re

from worker_sidecar.errors import InputError

AUTO = "auto"

_ONE = re.compile(
    r"0|[1-9][0-9]{0,2}"
    r"|(?:GPU|MIG)-[0-9A-Za-z][0-9A-Za-z/-]{0,127}"
    r"|[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?:-[0-9]{1,2})?"
)
"""A number, a UUID, or the PCI address that an AMD GPU without one goes by, or its partition."""


def check_wanted(text: str) -> tuple[str, ...]:
    """The numbers and UUIDs in "auto", "0", "0,1" or "GPU-…,MIG-…"; none for "auto".

    Raises InputError for anything else.
    """
    if text == AUTO:
        return ()
    wanted = tuple(text.split(","))
    for one in wanted:
        if not _ONE.fullmatch(one):
            raise InputError(
                f"gpu {text!r} is none; give auto, a number such as 0, a UUID such as GPU-… or"
                " MIG-…, or several of them as in 0,1"
            )
    if len(set(wanted)) < len(wanted):
        raise InputError(f"gpu {text!r} names one GPU twice")
    return wanted
