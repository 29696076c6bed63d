"""The options of every command: which workers are meant, and by which launcher."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click

from worker_exporter import log
from worker_sidecar.control import Control, open_control, open_reading
from worker_sidecar.errors import SidecarError
from worker_sidecar.launch import best
from worker_sidecar.spec import EMPTY, Config, load

SYSTEM_FILE = "/etc/worker-sidecar/workers.yaml"


@dataclass(frozen=True, slots=True)
class Where:
    """What the common options said; None for those that were not given."""

    launcher: str | None = None
    slice_name: str | None = None
    file: str | None = None
    emergency: bool | None = None
    reason: str | None = None
    log_level: str | None = None
    log_format: str | None = None

    def over(self, general: "Where") -> "Where":
        """These, where given, else the `general` ones."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        given = {name: value for name, value in pairs if value is not None}
        merged = {field.name: getattr(general, field.name) for field in fields(self)} | given
        return Where(**merged)

    @property
    def override(self) -> str | None:
        """The reason to override who owns the slice. Raises click.UsageError without one."""
        reason = (self.reason or "").strip()
        if bool(self.emergency) != bool(reason):
            raise click.UsageError('--emergency and --reason "..." belong together')
        return reason or None

    def config(self) -> Config:
        """What workers.yaml says; a file that was not named may be absent. Raises SidecarError."""
        path = self.file or default_file()
        if self.file is None and not os.path.exists(path):
            return EMPTY
        return load(path)

    def slice(self) -> str:
        """The slice that is meant, also with a broken workers.yaml."""
        return self.slice_name or self._usable_config().slice_name

    def control(self) -> Control:
        """Control to change workers. Raises SidecarError, so for a slice that is not ours."""
        override = self.override
        config = self.config() if override is None else self._usable_config()
        return open_control(config, self.slice_name, self.launcher, override)

    def reading(self) -> Control:
        """Control to look at workers, whoever owns them; also with a broken workers.yaml."""
        return open_reading(self._usable_config(), self.slice_name, self.launcher, self.override)

    def _usable_config(self) -> Config:
        try:
            return self.config()
        except SidecarError as error:
            if self.file is not None:
                raise
            log.warn("going on without workers.yaml", err=" ".join(str(error).split()))
            return EMPTY


def default_file() -> str:
    """Where workers.yaml is when nobody names it: root's in /etc, else the user's own."""
    if os.geteuid() == 0:
        return SYSTEM_FILE
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return f"{home}/worker-sidecar/workers.yaml"


def where_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of Where, and their values as the parameter `where`."""

    @functools.wraps(function)
    def command(*args: Any, **parameters: Any) -> Any:
        own = Where(**{field.name: parameters.pop(field.name) for field in fields(Where)})
        general = click.get_current_context().obj
        where = own.over(general) if isinstance(general, Where) else own
        return function(*args, where=where, **parameters)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def logged(level: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Sets the log up for a command with where_options: from `level` on, unless told."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*args: Any, where: Where, **parameters: Any) -> Any:
            log.setup(where.log_level or level, where.log_format or "logfmt")
            return function(*args, where=where, **parameters)

        return command

    return decorate


_OPTIONS = (
    click.option(
        "--launcher",
        type=click.Choice(best.FORCED),
        help="How workers are started, rather than the best way of this host.",
    ),
    click.option(
        "--slice",
        "slice_name",
        metavar="NAME",
        help="The slice of the workers, rather than that of the file.  [default: worker.slice]",
    ),
    click.option(
        "--file",
        metavar="FILE",
        envvar="WORKER_SIDECAR_FILE",
        help=f"workers.yaml; it may be absent unless it is named.  [default: {SYSTEM_FILE}]",
    ),
    click.option(
        "--emergency",
        is_flag=True,
        default=None,
        help="Also change what belongs to somebody else; needs --reason.",
    ),
    click.option("--reason", metavar="TEXT", help="Why, for the log."),
    click.option(
        "--log.level",
        "log_level",
        type=click.Choice(list(log.LEVELS)),
        help="The least severity that is logged.  [default: info, or warn for what only looks]",
    ),
    click.option(
        "--log.format",
        "log_format",
        type=click.Choice(list(log.FORMATS)),
        help="The form of the log lines.  [default: logfmt]",
    ),
)
