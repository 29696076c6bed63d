"""Words that reach a program as they were written, whatever systemd does to them on the way.

In the arguments of a transient unit's commands systemd expands `$`, and writes them to a file
which it reads again at every daemon-reload, wherefore the next restart of the worker gets others:
systemd 252 makes `\\$\\$` of `$$` and `\\;` of `;`, 257 makes `$$$$` of `$$`. What is not UTF-8
cannot be sent over D-Bus at all. So none of these is in a command: the words are written as
quoted-printable where they need it (binascii.a2b_qp undoes it), and a helper undoes it.
"""

import re

from worker_sidecar.errors import InputError

_UNSENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ENCODED = re.compile("[=$;\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def survives(argument: str) -> bool:
    """Whether an argument reaches a program as it is, also after a reload of systemd."""
    return "$" not in argument and ";" not in argument and is_sent(argument)


def is_sent(value: str) -> bool:
    """Whether systemd takes the value of a variable: UTF-8 without control characters."""
    return not _UNSENT.search(value)


def encoded(word: str) -> str:
    """The word as quoted-printable. Raises InputError for what is no text of this host's."""
    try:
        return _ENCODED.sub(lambda match: _hexadecimal(match[0]), word)
    except UnicodeEncodeError as error:
        raise InputError(f"{word[:64]!r} is no valid text") from error


def quoted(word: str) -> str:
    """The word in systemd's quotes, see systemd.service(5), "Command lines"."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _hexadecimal(character: str) -> str:
    return "".join(f"={byte:02X}" for byte in character.encode(errors="surrogateescape"))
