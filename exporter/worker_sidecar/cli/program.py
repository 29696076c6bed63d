"""The program: its commands, and what becomes of an error."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import worker_exporter
from worker_exporter import log
from worker_exporter.errors import UserError
from worker_sidecar.cli import apply, host, run, serve, ship, workers
from worker_sidecar.cli.telling import PROGRAM, tell_error
from worker_sidecar.cli.where import Where, where_options
from worker_sidecar.errors import SidecarError

_COMPLETION = "_WORKER_SIDECAR_COMPLETE"
"""Set by the shell's completion, see click's documentation of it."""

_USAGE = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141
"""What a shell shows for a program that SIGPIPE ended."""


class _Commands(click.Group):
    """Commands in the order of their use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": 100,
        "max_content_width": 100,
    },
)
@click.version_option(worker_exporter.__version__, prog_name=PROGRAM)
@where_options
@click.pass_context
def cli(ctx: click.Context, where: Where) -> None:
    """Launch, watch and stop workers, each in a cgroup of its own for worker-exporter to see.

    The options here may also follow the command.

    Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 already running.
    """
    ctx.obj = where


for _command in (
    run.run,
    workers.ps,
    workers.stop,
    workers.kill,
    workers.logs,
    apply.apply,
    apply.down,
    serve.serve,
    ship.ship,
    host.cgroup_parent,
    host.doctor,
    host.demo,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    _fill_standard_streams()
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run with `arguments` (without the program's name) and return the exit code.

    Whatever goes wrong is one line on standard error.
    """
    if _COMPLETION in os.environ:
        cli.main(list(arguments), PROGRAM)
    try:
        # not cli.main: it has its own mind about Ctrl-C and broken pipes
        with cli.make_context(PROGRAM, list(arguments)) as ctx:
            code = cli.invoke(ctx)
        _flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        said = error.format_message().rstrip(".")
        return _fail(f"{said}; see {_command_of(error)} --help", _USAGE)
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except SidecarError as error:
        return _fail(str(error), error.exit_code)
    except UserError as error:
        return _fail(str(error), 1)
    except OSError as error:
        _discard_output()
        return _fail(_about(error), 1)
    except Exception as error:
        about = log.describe(error)
        return _fail(f"unexpected {about['err']} at {about.get('where', 'an unknown place')}", 1)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    tell_error(message)
    return code


def _command_of(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return PROGRAM if ctx is None else ctx.command_path


def _about(error: OSError) -> str:
    if error.filename is None:
        return error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _fill_standard_streams() -> None:
    """What is opened later must not become standard output because that was closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _flush() -> None:
    """Write what is buffered while an error can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _discard_output() -> None:
    """What is still buffered must not fail again at the exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
