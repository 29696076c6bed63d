"""The command lines that start a worker: argument lists, of which nothing is run here."""

import math
import sys
from collections.abc import Mapping, Sequence

from worker_sidecar.errors import InputError
from worker_sidecar.launch import stamp
from worker_sidecar.launch.account import Account
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.systemd import program, properties
from worker_sidecar.launch.systemd.place import Place
from worker_sidecar.launch.systemd.words import encoded, is_sent, quoted, survives

STOP_SECONDS = 90
"""Least TimeoutStopSec= of a unit: what systemd itself gives those that say nothing."""

LONGEST = 1 << 17
"""Bytes of one argument, see execve(2), with its NUL (MAX_ARG_STRLEN)."""

DECLARATION = "declaration="
"""How the argument of the helper begins that holds what the worker was started with."""

NO_PROGRAM = 203
"""systemd's exit status for a program that cannot be executed, see systemd.exec(5)."""

_OBEYED = ("GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH")
"""Variables by which glibc finds what it loads, beside LD_*: it too ignores them where a program
gains rights (unsecvars.h).
"""

RUN = f"""\
import os, sys, _signal
from binascii import a2b_qp
words = [a2b_qp(os.fsencode(word)) for word in sys.argv[2:]]
count = int(sys.argv[1])
with open("/proc/self/environ", "rb") as given:
    variables = given.read().split(b"\\0")[:-1] + words[:count]
_signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
try:
    environment = dict(variable.split(b"=", 1) for variable in variables)
    os.execve(words[count], words[count:], environment)
except OSError as error:
    print(os.fsdecode(words[count]), error.strerror, sep=": ", file=sys.stderr)
    sys.exit({NO_PROGRAM})
"""
"""Becomes the program that its arguments name: a count of variables, these, and the command, all
as quoted-printable. Python ignores SIGXFSZ and may set LC_CTYPE: a program must not inherit that.
"""


def run_command(spec: WorkerSpec, place: Place) -> tuple[str, ...]:
    """The `systemd-run` that starts `spec`. Looks at files, users and devices, and changes nothing.

    Raises InputError or RefusedError for what cannot work.
    """
    account = program.check(spec)
    direct, by_helper = _split(spec.environment)
    words = (
        "systemd-run",
        *(["--user"] if place.user else []),
        "--quiet",
        "--no-ask-password",
        f"--unit={place.unit(spec.service, spec.instance)}",
        f"--slice={place.service_slice(spec.service)}",
        f"--description=worker {spec.name}",
        "--service-type=exec",
        *(f"--property={setting}" for setting in _settings(spec, place)),
        *(f"--setenv={name}={value}" for name, value in direct.items()),
        "--",
        *_command(spec, account, by_helper),
    )
    if any(len(word.encode(errors="surrogateescape")) >= LONGEST for word in words):
        raise InputError(
            f"{spec.name}: a part of its command or environment, or all of it together, is longer "
            f"than {LONGEST - 1} bytes; put it into a file"
        )
    return words


def slice_command(unit: str, settings: Sequence[str], place: Place) -> tuple[str, ...]:
    """The `systemctl` that sets properties of a slice until the next boot, without a reload."""
    manager = ["--user"] if place.user else []
    return (
        "systemctl",
        *manager,
        "--no-ask-password",
        "set-property",
        "--runtime",
        unit,
        *settings,
    )


def _settings(spec: WorkerSpec, place: Place) -> Sequence[str]:
    found = [
        *properties.ACCOUNTING,
        f"Restart={spec.restart}",
        f"TimeoutStopSec={math.ceil(max(STOP_SECONDS, spec.grace))}s",
        # all of the worker ends, and systemd reports oom-kill
        "OOMPolicy=kill",
        f"OOMScoreAdjust={spec.oom_score_adjust}",
        *properties.settings(spec.limits),
    ]
    if spec.delegate:
        found.append("Delegate=yes")
    if spec.user is not None and not place.user:
        found.append(f"User={spec.user}")
    if spec.directory is not None:
        found.append(f"WorkingDirectory={spec.directory}")
    found += [f"LoadCredential={name}:{path}" for name, path in spec.secrets.items()]
    if spec.secret_env is not None:
        found.append(f"EnvironmentFile={spec.secret_env}")
    return [*found, *_helpers(spec, place)]


def _helpers(spec: WorkerSpec, place: Place) -> Sequence[str]:
    """What writes the metadata, and nothing after it.

    `-`: a worker without metadata is better than none; `+`: as root, whatever the worker's user.
    systemd 252 writes a `+` into the transient unit's file under a name that it does not read
    again after a reload, unless a command without it follows.
    """
    items = [f"{key}={encoded(value)}" for key, value in spec.attributes.items()]
    items.append(DECLARATION + encoded(encode(spec)))
    words = [sys.executable, "-I", "-S", stamp.__file__, place.mount or "", *items]
    for word in words[:5]:
        if not survives(word):
            raise InputError(f"{word!r}: systemd takes no $, ; or control character in that path")
    command = " ".join(quoted(word) for word in words)
    if spec.user is None or place.user:
        return [f"ExecStartPre=-{command}"]
    return [f"ExecStartPre=-+{command}", "ExecStartPre=-/bin/true"]


def _split(environment: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The variables that systemd sets, and those that only the program itself must see.

    What the dynamic linker and the C library obey would make root's helper load the worker's
    libraries.
    """
    by_helper = {
        name: value
        for name, value in environment.items()
        if name.startswith("LD_") or name in _OBEYED or not is_sent(value)
    }
    direct = {name: value for name, value in environment.items() if name not in by_helper}
    return direct, by_helper


def _command(spec: WorkerSpec, account: Account, variables: Mapping[str, str]) -> tuple[str, ...]:
    words = (program.path_of(spec), *spec.argv[1:])
    if not variables and all(survives(word) for word in words):
        return words
    given = [encoded(f"{name}={value}") for name, value in variables.items()]
    python = program.interpreter(spec, account)
    return (python, "-I", "-S", "-c", RUN, str(len(given)), *given, *map(encoded, words))
