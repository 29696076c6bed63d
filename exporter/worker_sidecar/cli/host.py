"""`worker-sidecar cgroup-parent`, `doctor` and `demo`: what is about the host, not one worker."""

import os

import click

from worker_exporter import log
from worker_sidecar.cli.table import columns
from worker_sidecar.cli.where import Where, default_file, logged, where_options
from worker_sidecar.launch import best, docker


@click.command("cgroup-parent")
@click.argument("service")
@click.argument("instance", required=False)
@where_options
@logged("warn")
def cgroup_parent(*, where: Where, service: str, instance: str | None) -> None:
    """Print what belongs behind --cgroup-parent= of docker run, and prepare it.

    So a container that something else starts is seen as a worker of SERVICE.
    """
    control = where.control()
    site = best.site_for(control.slice_name or best.DEFAULT_SLICE)
    click.echo(docker.cgroup_parent(site, service, instance, best.docker_socket()))


@click.command()
@where_options
@logged("warn")
def doctor(*, where: Where) -> int:
    """Say what this host allows, what is in the way, and what to do about it."""
    from worker_sidecar import doctor as doctors

    path = where.file or default_file()
    named = where.file is not None or os.path.exists(path)
    findings = doctors.examine(best.site_for(where.slice()), path if named else None)
    cells = [(found.level, found.name, found.says) for found in findings]
    head, *lines = columns([("LEVEL", "WHAT", "FOUND"), *cells])
    click.echo(head)
    for line, found in zip(lines, findings, strict=True):
        click.echo(line)
        if found.advice is not None:
            click.echo(f"         {found.advice}")
    return 1 if any(found.level == "problem" for found in findings) else 0


@click.command()
@click.option(
    "--duration",
    type=float,
    metavar="SECONDS",
    help="End by itself after this time; without it Ctrl-C ends the demo.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=10390,
    show_default=True,
    help="Port of the exporter on 127.0.0.1; 0, or one that is busy, takes a free one.",
)
@click.option(
    "--slice",
    "slice_name",
    default="demo.slice",
    show_default=True,
    metavar="NAME",
    help="The slice the demo makes for its workers, and removes with all that is in it.",
)
def demo(duration: float | None, port: int, slice_name: str) -> None:
    """Show real workers with moving figures, then remove every trace of them."""
    from worker_sidecar.demo.run import Demo, run

    log.setup("warn", "logfmt")
    run(Demo(slice_name=slice_name, port=port, duration=duration))
