"""The command line `worker-sidecar`."""

import sys

import click

import worker_exporter
from worker_exporter.errors import UserError
from worker_sidecar.demo.run import Demo, run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(worker_exporter.__version__, prog_name="worker-sidecar")
def cli() -> None:
    """Launch workers so that each has a cgroup of its own for worker-exporter to see."""


@cli.command()
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
    run(Demo(slice_name=slice_name, port=port, duration=duration))


def main() -> None:
    """The program. A user's mistake is one line on stderr and exit code 1."""
    try:
        code = cli.main(prog_name="worker-sidecar", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        code = 0
    except click.ClickException as error:
        code = _fail(error.format_message())
    except (UserError, OSError) as error:
        code = _fail(str(error))
    sys.exit(code)


def _fail(message: str) -> int:
    line = " ".join(message.split())
    print(f"worker-sidecar: error: {line}", file=sys.stderr)
    return 1
