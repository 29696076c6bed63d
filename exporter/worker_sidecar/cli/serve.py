"""`worker-sidecar serve`: the flags of the service."""

from collections.abc import Sequence

import click

from worker_exporter.errors import UserError
from worker_exporter.web.listen import Address, parse_address
from worker_sidecar.cli.where import Where, logged, where_options
from worker_sidecar.launch.site import run_dir

_NOWHERE = "off"


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except UserError as error:
        raise click.BadParameter(str(error)) from None


def _address_or_nowhere(text: str) -> Address | None:
    return None if text == _NOWHERE else _address(text)


@click.command()
@click.option(
    "--socket",
    metavar="PATH",
    help="The Unix socket of the API; one that systemd passes goes first."
    f"  [default: {run_dir()}/api.sock]",
)
@click.option("--socket-group", metavar="GROUP", help="The group that may use the socket.")
@click.option(
    "--listen-address",
    "listen",
    type=_address,
    multiple=True,
    metavar="[HOST]:PORT",
    help="Answer on TCP, too; needs --token-file; repeatable.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="The bearer token that TCP asks for; nobody else may be able to read the file.",
)
@click.option(
    "--web.config.file", "web_config", metavar="FILE", help="TLS, in exporter-toolkit's format."
)
@click.option(
    "--telemetry-address",
    "telemetry",
    type=_address_or_nowhere,
    default=":10391",
    show_default=True,
    metavar="[HOST]:PORT",
    help="Where the sidecar's own metrics and health are; off for nowhere.",
)
@where_options
@logged("info")
def serve(
    *,
    where: Where,
    socket: str | None,
    socket_group: str | None,
    listen: Sequence[Address],
    token_file: str | None,
    web_config: str | None,
    telemetry: Address | None,
) -> None:
    """Apply workers.yaml, probe the workers and answer on HTTP, until SIGTERM.

    SIGHUP reads the file again and applies it. Workers go on when this ends.
    """
    if listen and token_file is None:
        raise click.UsageError("--listen-address needs --token-file: TCP has no other lock")
    # here, for the web's libraries would slow down every other command
    from worker_sidecar.api import ServeSettings, default_socket
    from worker_sidecar.api import serve as serve_api

    serve_api(
        ServeSettings(
            load=where.config,
            slice_name=where.slice_name,
            launcher=where.launcher,
            emergency=where.override,
            socket=socket or default_socket(),
            group=socket_group,
            listen=tuple(listen),
            token_file=token_file,
            web_config=web_config,
            telemetry=telemetry,
        )
    )
