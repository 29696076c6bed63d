"""`worker-sidecar apply` and `down`: all workers of a file, all workers of a slice."""

import dataclasses
from collections.abc import Iterator, Sequence

import click

from worker_sidecar import reconcile
from worker_sidecar.cli.telling import printable, tell_error
from worker_sidecar.cli.where import Where, default_file, logged, where_options
from worker_sidecar.cli.workers import check_grace, told
from worker_sidecar.launch.launcher import GRACE
from worker_sidecar.reconcile import Did, Need, Result, Step

_WOULD = {
    Need.START: "would be started",
    Need.REPLACEMENT: "differs; would be left without --replace",
    Need.IS_UNDECLARED: "would be left without --prune",
    Need.STAYS_STOPPED: "would stay stopped without --include-stopped",
}
_LEFT = {
    Need.REPLACEMENT: "differs and was left, see --replace",
    Need.IS_UNDECLARED: "was left, see --prune",
    Need.STAYS_STOPPED: "stays stopped, see --include-stopped",
}


@click.command()
@click.argument("named_file", required=False, metavar="[FILE]")
@click.option("--diff", "--dry-run", "diff", is_flag=True, help="Only say what differs.")
@click.option("--replace", is_flag=True, help="Stop and start again what differs.")
@click.option("--prune", is_flag=True, help="Stop what is not in the file.")
@click.option(
    "--include-stopped", is_flag=True, help="Start also what somebody stopped on purpose."
)
@click.option("--strict", is_flag=True, help="A limit that does not hold is a failure.")
@where_options
@logged("info")
def apply(
    *,
    where: Where,
    named_file: str | None,
    diff: bool,
    replace: bool,
    prune: bool,
    include_stopped: bool,
    strict: bool,
) -> int:
    """Make it as workers.yaml says: start what is missing, leave alone what is right.

    What differs is said, and left unless --replace; what is not in the file is said, and left
    unless --prune. Twice in a row does nothing.
    """
    where = dataclasses.replace(where, file=named_file or where.file or default_file())
    control = where.reading() if diff else where.control()
    config = control.config
    if diff:
        stopped = frozenset() if include_stopped else control.stopped.names()
        for step in reconcile.plan(config, control.list(), stopped).steps:
            for line in planned(step):
                click.echo(line)
        return 0
    if include_stopped:
        for declared in config.workers:
            control.stopped.clear(declared.spec.service, declared.spec.instance)
    outcome = reconcile.apply(config, control, replace, prune, strict, _tell)
    click.echo(summary(outcome.results))
    return 1 if outcome.failed else 0


@click.command()
@click.option(
    "--grace",
    type=float,
    default=GRACE,
    show_default=True,
    metavar="SECONDS",
    help="From the polite signal to the kill, for all workers together.",
)
@where_options
@logged("warn")
def down(*, where: Where, grace: float) -> None:
    """End all workers below the slice and remove it. Declared ones stay stopped."""
    check_grace(grace)
    for ended in where.control().down(grace):
        click.echo(told("stopped", ended))


def planned(step: Step) -> Iterator[str]:
    """What would be done for a worker, and why; nothing for one that is right."""
    if step.need in _WOULD or step.why:
        yield from _lines(step, _WOULD.get(step.need, "would be left"))


def done(result: Result) -> Iterator[str]:
    """What was done for a worker, and why; nothing for one that is right, nor for a failure,
    whose error is told elsewhere.
    """
    if result.did is Did.FAILED:
        return
    if result.did is not Did.NOTHING:
        yield from _lines(result.step, str(result.did))
    elif result.step.need in _LEFT:
        yield from _lines(result.step, _LEFT[result.step.need])


def _lines(step: Step, what: str) -> Iterator[str]:
    """One line, where there is one plain reason; else one for each difference."""
    if step.need in (Need.REPLACEMENT, Need.NOTHING):
        yield f"{step.name}: {what}"
        # what runs may have been declared by somebody who means ill
        yield from (f"  {printable(reason)}" for reason in step.why)
    else:
        yield f"{step.name}: {what} ({printable(', '.join(step.why))})"


def summary(results: Sequence[Result]) -> str:
    """How many workers were handled in each way."""
    counts = {did: sum(result.did is did for result in results) for did in Did}
    said = ", ".join(f"{count} {did}" for did, count in counts.items() if count)
    return f"workers: {said or 'none'}"


def _tell(result: Result) -> None:
    for line in done(result):
        click.echo(line)
    if result.error is not None:
        tell_error(str(result.error))
