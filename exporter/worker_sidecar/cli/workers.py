"""`worker-sidecar ps`, `stop`, `kill` and `logs`."""

import json
import math
import os
import time
from collections.abc import Sequence

import click

from worker_sidecar.cli.table import absent_as_json, as_json, ending, rows, workers_table
from worker_sidecar.cli.where import Where, logged, where_options
from worker_sidecar.launch.launcher import Ended, State, Status
from worker_sidecar.reconcile import Absent, absent

_STATES = [*(state.value for state in State), *(why.value for why in Absent)]


@click.command()
@click.option("--service", "services", multiple=True, help="Only this service; repeatable.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these; repeatable."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)
@where_options
@logged("warn")
def ps(*, where: Where, services: Sequence[str], states: Sequence[str], output: str) -> None:
    """List the workers, and the declared ones that do not run: stopped on purpose, or missing."""
    control = where.reading()
    statuses = control.list()
    gone = list(absent(control.config, statuses, control.stopped.names()))

    def declared(status: Status) -> bool:
        return control.config.find(status.service, status.instance) is not None

    def wanted(service: str, state: str) -> bool:
        return (not services or service in services) and (not states or state in states)

    statuses = [status for status in statuses if wanted(status.service, status.state)]
    gone = [(name, why) for name, why in gone if wanted(name[0], why)]
    if output == "json":
        workers = [
            *(as_json(status, declared(status)) for status in statuses),
            *(absent_as_json(name, why) for name, why in gone),
        ]
        workers.sort(key=lambda worker: (worker["service"], worker["instance"]))
        click.echo(json.dumps(workers, indent=2, ensure_ascii=False))
        return
    for line in workers_table(rows(statuses, gone, time.time())):
        click.echo(line)


@click.command()
@click.argument("service")
@click.argument("instance")
@click.option(
    "--grace",
    type=float,
    metavar="SECONDS",
    help="From the polite signal to the kill, rather than the worker's own.",
)
@where_options
@logged("warn")
def stop(*, where: Where, service: str, instance: str, grace: float | None) -> None:
    """End a worker with all its processes. A declared one stays stopped until it is started."""
    if grace is not None:
        check_grace(grace)
    ended = where.control().stop(service, instance, grace)
    click.echo(told("stopped", ended))


@click.command()
@click.argument("service")
@click.argument("instance")
@where_options
@logged("warn")
def kill(*, where: Where, service: str, instance: str) -> None:
    """As stop, by SIGKILL at once."""
    click.echo(told("killed", where.control().kill(service, instance)))


@click.command()
@click.argument("service")
@click.argument("instance")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="How many."
)
@where_options
@logged("warn")
def logs(*, where: Where, service: str, instance: str, follow: bool, lines: int) -> None:
    """Print the last lines of a worker's output."""
    stream = where.reading().logs(service, instance, lines, follow=follow)
    try:
        while piece := stream.read():
            _write(piece)
    finally:
        stream.close()


def check_grace(grace: float) -> None:
    """Raises click.BadParameter for a time that cannot be waited."""
    if not 0 <= grace < math.inf:
        raise click.BadParameter(f"--grace {grace:g} is not a number of seconds from 0 up")


def told(done: str, ended: Ended) -> str:
    """The line for a worker that was ended."""
    forced = " by SIGKILL" if ended.forced else ""
    how = ending(ended.result, ended.exit_status)
    return f"{done} {ended.service}/{ended.instance}{forced}{f': {how}' if how else ''}"


def _write(content: bytes) -> None:
    """Write all of `content` to standard output at once: somebody may be watching."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(1, rest) :]
