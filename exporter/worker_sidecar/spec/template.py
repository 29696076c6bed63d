"""Templates: texts in which tokens such as {port} are replaced, and nothing else.

A token is a name in braces. `${NAME}` is none: it reaches the program as written, like every other
`$`. What replaces a token is not looked at again.
"""

import re
from collections.abc import Iterable, Mapping

_TOKEN = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")


def tokens(text: str) -> list[str]:
    """The names of the tokens in `text`, in their order."""
    return _TOKEN.findall(text)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with every token replaced by its value. Raises KeyError for one that has none."""
    return _TOKEN.sub(lambda match: values[match[1]], text)


def unknown(text: str, known: Iterable[str]) -> str | None:
    """What to say of the first token in `text` that is not among the `known`, if there is one."""
    names = list(known)
    for token in tokens(text):
        if token not in names:
            listed = ", ".join(f"{{{name}}}" for name in names)
            return f"{{{token}}} is no token here; there are {listed}"
    return None
