"""`worker-sidecar ship`: dashboards to a Grafana, rules to a Prometheus or a ruler."""

import functools
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from worker_exporter import log
from worker_sidecar.cli.telling import printable
from worker_sidecar.cli.where import Where
from worker_sidecar.ship.access import PATIENCE, Access
from worker_sidecar.ship.secret import secret

if TYPE_CHECKING:
    from worker_sidecar.ship.ruler.api import Ruler
    from worker_sidecar.ship.ruler.ship import RulerOptions
    from worker_sidecar.ship.rules import RuleFile

_WAIT = 90.0
"""Seconds in which each rule should have been evaluated: three times the shipped interval."""

_NAMESPACE = "worker-exporter"

_CHANGES = (
    click.option("--dry-run", is_flag=True, help="Only say what would be done, with differences."),
    click.option("--force", is_flag=True, help="Overwrite also what somebody else has changed."),
)


_TERMINATED = 128 + signal.SIGTERM


@click.group()
@click.pass_context
def ship(ctx: click.Context) -> None:
    """Bring the dashboards to a Grafana, and the rules to a Prometheus."""
    where: Where = ctx.obj
    log.setup(where.log_level or "warn", where.log_format or "logfmt")
    before = signal.signal(signal.SIGTERM, _end)
    ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """On SIGTERM, as on Ctrl-C, what is half done is taken back first."""
    raise SystemExit(_TERMINATED)


def _change_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_CHANGES):
        function = option(function)
    return function


def _access_options(token: str, password: str) -> Callable[[Callable[..., Any]], Any]:
    """Gives a command the options of Access, and their values as the parameter `access`.

    `token` and `password` are the environment's variables for these.
    """
    options = (
        click.option("--token-file", metavar="FILE", help=f"The token.  [default: ${token}]"),
        click.option("--user", metavar="NAME", help="A user, rather than a token."),
        click.option(
            "--password-file", metavar="FILE", help=f"The password.  [default: ${password}]"
        ),
        click.option("--ca-file", metavar="FILE", help="The CA of the server's certificate."),
        click.option("--insecure", is_flag=True, help="Take any certificate for the server's."),
        click.option(
            "--patience",
            type=click.FloatRange(0, 3600),
            default=PATIENCE,
            show_default=True,
            metavar="SECONDS",
            help="How long the server may be down or busy.",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(
            *,
            token_file: str | None,
            user: str | None,
            password_file: str | None,
            ca_file: str | None,
            insecure: bool,
            patience: float,
            **parameters: Any,
        ) -> Any:
            if user is None and password_file is not None:
                raise click.UsageError("--password-file needs --user")
            if user is not None and token_file is not None:
                raise click.UsageError("--token-file and --user exclude each other")
            if user is None:
                own = Access(secret(token_file, token), None, None, ca_file, insecure, patience)
            else:
                word = secret(password_file, password)
                if word is None:
                    raise click.UsageError(f"--user needs --password-file or ${password}")
                own = Access(None, user, word, ca_file, insecure, patience)
            return function(access=own, **parameters)

        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@ship.command()
@click.option("--url", required=True, help="The Grafana, with its path: https://host/grafana.")
@click.option("--folder", metavar="TITLE", help="The folder.  [default: Workers]")
@click.option("--folder-uid", metavar="UID", help="The folder, rather by its uid.")
@click.option("--datasource", metavar="UID", help="The Prometheus that the dashboards show first.")
@click.option("--dashboards", metavar="DIR", help="Other dashboards: all *.json of a directory.")
@click.option("--org", type=click.IntRange(1), metavar="N", help="The organization, with --user.")
@click.option(
    "--api",
    type=click.Choice(["auto", "classic", "resources"]),
    default="auto",
    show_default=True,
    help="Grafana's /api, or the /apis that are stable since Grafana 13.",
)
@_change_options
@_access_options("GRAFANA_TOKEN", "GRAFANA_PASSWORD")
def grafana(
    *,
    access: Access,
    url: str,
    folder: str | None,
    folder_uid: str | None,
    datasource: str | None,
    dashboards: str | None,
    org: int | None,
    api: str,
    dry_run: bool,
    force: bool,
) -> None:
    """Bring the dashboards to a Grafana.

    Twice in a row does nothing. Where somebody else has saved one of them, nothing is done at all,
    unless --force.
    """
    # here, for the library of requests would slow down every other command
    from worker_sidecar.ship import bundle
    from worker_sidecar.ship.grafana.ship import GrafanaOptions
    from worker_sidecar.ship.grafana.ship import ship as ship_grafana
    from worker_sidecar.ship.http import Server

    shipped = bundle.dashboards(dashboards)
    server = Server(url, access, {} if org is None else {"X-Grafana-Org-Id": str(org)})
    options = GrafanaOptions(folder, folder_uid, datasource, api, force, dry_run)
    ship_grafana(server, shipped, options, _tell)


@ship.command()
@click.option("--directory", metavar="DIR", help="A directory that Prometheus' rule_files name.")
@click.option("--url", help="The Prometheus that loads them: http://host:9090.")
@click.option("--prefix", default="", metavar="TEXT", help="Put before the names of the files.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 86400),
    default=_WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long the rules' first evaluation may take.",
)
@click.option("--ruler", metavar="URL", help="Rather than a directory: a Mimir, or a Cortex.")
@click.option("--tenant", metavar="ID", help="The ruler's tenant (X-Scope-OrgID).")
@click.option(
    "--namespace",
    default=_NAMESPACE,
    show_default=True,
    metavar="NAME",
    help="The ruler's namespace for the groups; it will hold no others.",
)
@click.option(
    "--max-rules",
    type=click.IntRange(1),
    metavar="N",
    help="Make groups of N rules at most; more than 20 Mimir refuses unless it is told.",
)
@click.option(
    "--datasource",
    metavar="UID",
    help="The --ruler is a Grafana: it hands the rules to the ruler of this data source.",
)
@click.option(
    "--managed", is_flag=True, help="It keeps the rules itself, and asks this data source."
)
@click.option("--runbooks", metavar="URL", help="Put before the runbooks' paths in the alerts.")
@click.option("--rules", metavar="DIR", help="Other rules: all *.yml of a directory.")
@_change_options
@_access_options("PROMETHEUS_TOKEN", "PROMETHEUS_PASSWORD")
def prometheus(
    *,
    access: Access,
    directory: str | None,
    url: str | None,
    prefix: str,
    wait: float,
    ruler: str | None,
    tenant: str | None,
    namespace: str,
    max_rules: int | None,
    datasource: str | None,
    managed: bool,
    runbooks: str | None,
    rules: str | None,
    dry_run: bool,
    force: bool,
) -> None:
    """Bring the recording rules and alerts to a Prometheus, or to a ruler.

    Into a --directory; with --url, Prometheus is told to load them, and asked whether they are
    loaded and healthy. Or by the API of a --ruler.
    """
    from worker_sidecar.ship import bundle
    from worker_sidecar.ship.http import Server
    from worker_sidecar.ship.prometheus.ship import DirectoryOptions
    from worker_sidecar.ship.prometheus.ship import ship as ship_directory
    from worker_sidecar.ship.ruler.ship import RulerOptions
    from worker_sidecar.ship.rules import load

    if (directory is None) == (ruler is None):
        raise click.UsageError("either --directory or --ruler says where the rules go")
    _refuse("--ruler", directory, tenant, datasource, max_rules, managed or None)
    _refuse("--directory", ruler, url, prefix or None)
    files = load(bundle.rule_files(rules), runbooks)
    if directory is not None:
        server = None if url is None else Server(url, access)
        options = DirectoryOptions(directory, wait, prefix, force, dry_run)
        ship_directory(files, options, server, _tell)
    elif ruler is not None:
        found = _ruler(ruler, access, tenant, datasource, managed)
        _ship_ruler(found, files, max_rules, RulerOptions(namespace, force, dry_run))


def _refuse(other: str, chosen: str | None, *given: object) -> None:
    """Raises click.UsageError for options `given` that belong to the `other` way."""
    if chosen is not None and any(value is not None for value in given):
        names = {
            "--ruler": "--tenant, --datasource, --max-rules and --managed",
            "--directory": "--url and --prefix",
        }
        raise click.UsageError(f"{names[other]} need {other}")


def _ruler(
    url: str, access: Access, tenant: str | None, datasource: str | None, managed: bool
) -> "Ruler":
    from worker_sidecar.ship.http import Server
    from worker_sidecar.ship.ruler import api

    headers = {} if tenant is None else {"X-Scope-OrgID": tenant}
    if datasource is None:
        if managed:
            raise click.UsageError("--managed needs --datasource, which the rules ask")
        return api.ruler_at(Server(url, access, headers))
    if managed:
        return api.ruler_within(Server(url, access, headers | api.managed_headers(datasource)))
    return api.ruler_behind(Server(url, access, headers), datasource)


def _ship_ruler(
    found: "Ruler", files: "Sequence[RuleFile]", most: int | None, options: "RulerOptions"
) -> None:
    from worker_sidecar.ship.ruler.ship import ship as ship_ruler
    from worker_sidecar.ship.rules import check_with_promtool, split

    check_with_promtool(files)
    groups = split([group for file in files for group in file.groups], most)
    ship_ruler(found, groups, options, _tell)


def _tell(line: str) -> None:
    # what comes from a server may mean ill
    click.echo(printable(line))
