"""`worker-sidecar run`: one worker, as the flags say or as workers.yaml does."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from worker_sidecar.cli.spec import Flags, changed, pairs
from worker_sidecar.cli.where import Where, default_file, logged, where_options
from worker_sidecar.errors import InputError, NotFoundError
from worker_sidecar.launch.launcher import Restart, Status, WorkerSpec
from worker_sidecar.spec import Config, Declared

_OPTIONS = (
    click.option("--cpu", metavar="CORES", help="CPU time: 2, 0.5 or 200%."),
    click.option("--cpu-weight", type=int, metavar="N", help="Share of busy CPUs, 1 to 10000."),
    click.option("--cpus", metavar="LIST", help="The CPUs to run on: 0-3,8."),
    click.option("--memory", metavar="BYTES", help="Memory, killed beyond: 300M, 8G."),
    click.option("--memory-high", metavar="BYTES", help="Memory, slowed down beyond."),
    click.option("--swap", metavar="BYTES", help="Swap; none where memory is limited."),
    click.option("--tasks", type=int, metavar="N", help="Processes and threads."),
    click.option("--io-weight", type=int, metavar="N", help="Share of busy disks, 1 to 10000."),
    click.option(
        "--io-read-bandwidth",
        multiple=True,
        metavar="PATH=BYTES",
        help="Bytes a second read from the disk that PATH is or lies on: /data=10M; repeatable.",
    ),
    click.option(
        "--io-write-bandwidth",
        multiple=True,
        metavar="PATH=BYTES",
        help="Bytes a second written to it; repeatable.",
    ),
    click.option("--io-read-iops", multiple=True, metavar="PATH=N", help="Reads a second."),
    click.option("--io-write-iops", multiple=True, metavar="PATH=N", help="Writes a second."),
    click.option("--user", metavar="NAME", help="The user to run as, or a uid."),
    click.option("--directory", metavar="DIR", help="The working directory."),
    click.option(
        "--env", multiple=True, metavar="NAME=VALUE", help="Environment, not secret; repeatable."
    ),
    click.option(
        "--secret",
        multiple=True,
        metavar="NAME=FILE",
        help="A secret, for the worker in the file $CREDENTIALS_DIRECTORY/NAME; repeatable.",
    ),
    click.option("--secret-env", metavar="FILE", help="NAME=value lines for the environment."),
    click.option(
        "--restart",
        type=click.Choice([policy.value for policy in Restart]),
        help="When to start it again (systemd and Docker).",
    ),
    click.option(
        "--grace", type=float, metavar="SECONDS", help="From the polite signal to the kill."
    ),
    click.option(
        "--delegate", is_flag=True, default=None, help="It may make cgroups below its own."
    ),
    click.option("--oom-score-adjust", type=int, metavar="N", help="-1000 to 1000."),
    click.option("--image", metavar="NAME", help="Run it in a container of this image."),
    click.option(
        "--volume",
        multiple=True,
        metavar="HOST:CONTAINER[:ro]",
        help="A path of the host that the container sees; repeatable.",
    ),
    click.option("--shm-size", metavar="BYTES", help="The container's /dev/shm: 8G."),
    click.option("--gpu", metavar="GPU", help="A number, a UUID, or auto: the most free VRAM."),
    click.option("--model", metavar="NAME", help="What it serves, for worker_info."),
    click.option("--port", type=click.IntRange(1, 65535), help="Where it answers."),
    click.option(
        "--metadata", multiple=True, metavar="KEY=VALUE", help="More of that; repeatable."
    ),
)


def _limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("service")
@click.argument("instance")
@click.argument("command", nargs=-1)
@_limit_options
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of a service of workers.yaml; repeatable.",
)
@click.option("--strict", is_flag=True, help="Fail when a limit does not hold.")
@click.option("--dry-run", is_flag=True, help="Print the shell lines that would do it.")
@where_options
@logged("info")
def run(
    *,
    where: Where,
    service: str,
    instance: str,
    command: Sequence[str],
    parameters: Sequence[str],
    strict: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Start a worker: SERVICE INSTANCE [LIMITS] -- COMMAND...

    Without a COMMAND it is the one that workers.yaml has for SERVICE; flags go before the file.
    """
    control = where.reading() if dry_run else where.control()
    base = _base(control.config, service, instance, tuple(command), parameters, flags["image"])
    spec = changed(base, Flags(**flags))
    if dry_run:
        for line in control.commands(spec):
            click.echo(line)
        return
    click.echo(_said(control.start(spec, strict=strict)))


def _base(
    config: Config,
    service: str,
    instance: str,
    command: tuple[str, ...],
    parameters: Sequence[str],
    image: str | None,
) -> WorkerSpec:
    """The specification that the flags change: the file's, or one of the command alone."""
    if not command and (image is None or service in config.services):
        return _requested(config, service, instance, parameters).spec
    if parameters:
        raise InputError("--parameter belongs to a service's own command, not to one given here")
    return WorkerSpec(
        service,
        instance,
        _from_here(command) if image is None else command,
        image=image,
        service_limits=config.total(service),
        host_limits=config.host_limits,
    )


def _from_here(command: tuple[str, ...]) -> tuple[str, ...]:
    """./program means the caller's directory, not the worker's."""
    if command and "/" in command[0]:
        return (os.path.abspath(command[0]), *command[1:])
    return command


def _requested(config: Config, service: str, instance: str, parameters: Sequence[str]) -> Declared:
    if service not in config.services:
        raise NotFoundError(
            f"{service} is no service of {config.path or default_file()}; declare it there, "
            "or give a command after --"
        )
    typed = config.services[service].typed(dict(pairs("--parameter", "NAME=VALUE", parameters)))
    return config.request(service, instance, typed)


def _said(status: Status) -> str:
    place = status.cgroup or status.container or "no cgroup"
    pid = "" if status.pid is None else f", pid {status.pid}"
    return f"started {status.name} by {status.launcher}: {place}{pid}"
