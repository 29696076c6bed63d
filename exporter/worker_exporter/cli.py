"""The command `worker-exporter`."""

import asyncio
import math
import os
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

import worker_exporter.collectors  # noqa: F401  (fills REGISTRY)
from worker_exporter import __version__, log
from worker_exporter.cgroup.identity import check_slice, compile_pattern
from worker_exporter.collectors.base import REGISTRY
from worker_exporter.errors import UserError
from worker_exporter.scrape import Scraper, Settings
from worker_exporter.telemetry import BUSY_THRESHOLD, Telemetry
from worker_exporter.web.app import Site, check_telemetry_path
from worker_exporter.web.config import read_config
from worker_exporter.web.listen import Address, open_sockets, parse_address
from worker_exporter.web.serve import serve
from worker_exporter.web.tls import ReloadingContext

_PROGRAM = "worker-exporter"
_HELP_WIDTH = 100
_ABOUT = """\
Prometheus metrics of every worker on this host, read from its cgroup v2.

Without a command it serves them; `once` prints one scrape and ends."""
_SECTIONS = {
    "web": "Web",
    "worker": "Workers",
    "smoothing": "Workers",
    "telemetry": "Telemetry",
    "collector": "Collectors",
    "path": "Paths",
    "log": "Log",
}
_OTHERS = "Other"
_COLLECTOR_PREFIX = "collector_"
_ONCE_PATIENCE = 5.0
"""Seconds that a single scrape waits for what is asked beside it: there is no next one."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A command line that made sense."""

    once: bool
    openmetrics: bool
    settings: Settings
    busy_threshold: float
    site: Site
    addresses: tuple[Address, ...]
    log_level: str
    log_format: str


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run with `arguments` (without the program's name) and return the exit code.

    Whatever the user got wrong becomes one line on standard error and 1.
    """
    try:
        parsed = parse(arguments)
        if parsed is not None:
            _execute(parsed)
    except UserError as error:
        click.echo(f"{_PROGRAM}: error: {' '.join(str(error).split())}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Arguments | None:
    """What `arguments` ask for; None when they asked for help or the version, now printed.

    Raises UserError for what cannot be meant.
    """
    try:
        parsed = _command().main(list(arguments), _PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        text = error.format_message().rstrip(".")
        raise UserError(f"{text}; see {_PROGRAM} --help") from None
    return parsed if isinstance(parsed, Arguments) else None


def _execute(arguments: Arguments) -> None:
    log.setup(arguments.log_level, arguments.log_format)
    _raise_descriptor_limit()
    if arguments.once:
        _print_once(arguments)
    else:
        _serve(arguments)


def _print_once(arguments: Arguments) -> None:
    scraper = Scraper(arguments.settings)
    try:
        snapshot = scraper.scrape(scraper.names, _ONCE_PATIENCE)
        _write(snapshot.openmetrics() if arguments.openmetrics else snapshot.text())
    finally:
        scraper.close()


def _serve(arguments: Arguments) -> None:
    tls = arguments.site.config.tls
    context = None if tls is None else ReloadingContext(tls)
    # The application closes the scraper: only it knows whether a pass still runs.
    scraper = Scraper(arguments.settings)
    telemetry = Telemetry(scraper, arguments.busy_threshold)
    sockets = open_sockets(arguments.addresses)
    log.info("starting", version=__version__, collectors=",".join(sorted(scraper.names)))
    asyncio.run(serve(telemetry, arguments.site, sockets, context))


def _write(content: bytes) -> None:
    """Write all of `content` to standard output; a reader that has enough is no error."""
    if sys.stdout is None:
        raise UserError("standard output is closed; open it or send it to a file")
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except BrokenPipeError:
        return
    except OSError as error:
        raise UserError(f"cannot write to standard output: {error.strerror}") from None


def _raise_descriptor_limit() -> None:
    # Kept-open kernel files are the scrape's speed; the scraper makes do with fewer.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.debug("the limit of open files stays", err=str(error))


def _from_zero_up(text: str, what: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise click.BadParameter(f"{text!r} is not a {what} from 0 up")
    return amount


def _percent(text: str) -> float:
    return _from_zero_up(text, "percentage")


def _seconds(text: str) -> float:
    return _from_zero_up(text, "number of seconds")


def _positive_seconds(text: str) -> float:
    seconds = _seconds(text)
    if seconds == 0:
        raise click.BadParameter(f"{text!r} is not a number of seconds above 0")
    return seconds


class _Command(click.Command):
    """A command whose help is in sections and as wide everywhere."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [once]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {
            title: [] for title in (*_SECTIONS.values(), _OTHERS)
        }
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[_section(parameter)].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=44)


def _section(parameter: click.Option) -> str:
    return _SECTIONS.get(parameter.opts[0].lstrip("-").partition(".")[0], _OTHERS)


def _command() -> click.Command:
    return _Command(
        name=_PROGRAM,
        callback=_arguments,
        params=[*_options(), *_collector_options()],
        help=_ABOUT,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "terminal_width": _HELP_WIDTH,
            "max_content_width": _HELP_WIDTH,
        },
    )


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"{_PROGRAM} {__version__}")
        ctx.exit()


def _options() -> Iterable[click.Parameter]:
    folder = click.Path(exists=True, file_okay=False)
    defaults, site = Settings(), Site()
    yield click.Argument(["command"], required=False, type=click.Choice(["once"]))
    yield click.Option(
        ["--web.listen-address", "listen"],
        multiple=True,
        default=[":10390"],
        metavar="[HOST]:PORT",
        show_default=True,
        help="Address to answer on, port 0 for a free one; repeatable.",
    )
    yield click.Option(
        ["--web.telemetry-path", "telemetry_path"],
        default=site.telemetry_path,
        metavar="PATH",
        show_default=True,
        help="Path of the metrics.",
    )
    yield click.Option(
        ["--web.config.file", "web_config"],
        metavar="FILE",
        help="TLS, basic authentication and headers, in exporter-toolkit's format.",
    )
    yield click.Option(
        ["--web.max-requests", "max_requests"],
        type=click.IntRange(min=0),
        default=site.max_requests,
        metavar="N",
        show_default=True,
        help="Scrapes at a time; 0 is no limit.",
    )
    yield click.Option(
        ["--web.timeout-offset", "timeout_offset"],
        type=_seconds,
        default=site.timeout_offset,
        metavar="SECONDS",
        show_default=True,
        help="Taken off the scraper's own timeout.",
    )
    yield click.Option(
        ["--path.cgroupfs", "cgroupfs"],
        type=folder,
        metavar="DIR",
        help="The cgroup2 mount; found through mountinfo unless given.",
    )
    yield click.Option(
        ["--path.procfs", "procfs"],
        type=folder,
        default=defaults.procfs,
        metavar="DIR",
        show_default=True,
        help="The proc mount.",
    )
    yield click.Option(
        ["--path.sysfs", "sysfs"],
        type=folder,
        default=defaults.sysfs,
        metavar="DIR",
        show_default=True,
        help="The sysfs mount.",
    )
    yield click.Option(
        ["--worker.slice", "slices"],
        multiple=True,
        default=list(defaults.slices),
        metavar="NAME",
        show_default=True,
        help="Slice (NAME.slice) that holds workers; repeatable.",
    )
    yield click.Option(
        ["--worker.pattern", "patterns"],
        multiple=True,
        metavar="REGEX",
        help="Cgroup paths that are workers, with groups named service and instance; repeatable.",
    )
    yield click.Option(
        ["--worker.user-managers", "user_managers"],
        is_flag=True,
        help="Look into other users' systemd managers too.",
    )
    yield click.Option(
        ["--worker.max", "max_workers"],
        type=click.IntRange(min=1),
        default=defaults.max_workers,
        metavar="N",
        show_default=True,
        help="Workers shown at most; the rest is counted.",
    )
    yield click.Option(
        ["--smoothing.time-constant", "time_constant"],
        type=_positive_seconds,
        default=defaults.time_constant,
        metavar="SECONDS",
        show_default=True,
        help="How slowly the smoothed gauges follow.",
    )
    yield click.Option(
        ["--telemetry.busy-threshold", "busy_threshold"],
        type=_percent,
        default=BUSY_THRESHOLD,
        metavar="PERCENT",
        show_default=True,
        help="Use of CPU or GPU above which a worker is busy, in percent of one core or GPU.",
    )
    yield click.Option(
        ["--log.level", "log_level"],
        type=click.Choice(list(log.LEVELS)),
        default="info",
        show_default=True,
        help="The least severity that is logged.",
    )
    yield click.Option(
        ["--log.format", "log_format"],
        type=click.Choice(list(log.FORMATS)),
        default="logfmt",
        show_default=True,
        help="The form of the log lines.",
    )
    yield click.Option(
        ["--format", "form"],
        type=click.Choice(["text", "openmetrics"]),
        help="What `once` prints: text (the default) or openmetrics.",
    )
    yield click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version and exit.",
    )


def _collector_options() -> Iterable[click.Option]:
    for name, entry in sorted(REGISTRY.items()):
        yield click.Option(
            [f"--collector.{name}/--no-collector.{name}", _COLLECTOR_PREFIX + name],
            default=entry.default,
            help=f"{entry.summary.rstrip('.')}; {'on' if entry.default else 'off'} by default.",
        )


def _arguments(
    *,
    command: str | None,
    listen: Sequence[str],
    telemetry_path: str,
    web_config: str | None,
    max_requests: int,
    timeout_offset: float,
    cgroupfs: str | None,
    procfs: str,
    sysfs: str,
    slices: Sequence[str],
    patterns: Sequence[str],
    user_managers: bool,
    max_workers: int,
    time_constant: float,
    busy_threshold: float,
    log_level: str,
    log_format: str,
    form: str | None,
    **collectors: bool,
) -> Arguments:
    if form is not None and command != "once":
        raise UserError(f"--format belongs to: {_PROGRAM} once")
    enabled = {name.removeprefix(_COLLECTOR_PREFIX) for name, on in collectors.items() if on}
    settings = Settings(
        cgroupfs=cgroupfs,
        procfs=procfs,
        sysfs=sysfs,
        slices=tuple(check_slice(name) for name in slices),
        patterns=tuple(compile_pattern(text) for text in patterns),
        user_managers=user_managers,
        max_workers=max_workers,
        time_constant=time_constant,
        collectors=frozenset(enabled),
    )
    site = Site(
        telemetry_path=check_telemetry_path(telemetry_path),
        max_requests=max_requests,
        timeout_offset=timeout_offset,
        **({} if web_config is None else {"config": read_config(web_config)}),
        summaries={name: entry.summary for name, entry in REGISTRY.items()},
    )
    return Arguments(
        once=command == "once",
        openmetrics=form == "openmetrics",
        settings=settings,
        busy_threshold=busy_threshold,
        site=site,
        addresses=tuple(parse_address(text) for text in listen),
        log_level=log_level,
        log_format=log_format,
    )
