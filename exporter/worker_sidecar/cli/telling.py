"""How errors look on standard error."""

import click

PROGRAM = "worker-sidecar"


def tell_error(message: str) -> None:
    """`message` on standard error, each of its lines marked; mostly it has one."""
    for line in message.splitlines() or [""]:
        click.echo(f"{PROGRAM}: error: {printable(' '.join(line.split()))}", err=True)


def printable(text: str) -> str:
    """`text` without what would steer a terminal, or what is no character at all."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
