"""Words on their way to a worker: as written, and with nothing in them that systemd changes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker_sidecar.errors import InputError
from worker_sidecar.launch import stamp
from worker_sidecar.launch.account import account_of
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.systemd import program
from worker_sidecar.launch.systemd.command import RUN
from worker_sidecar.launch.systemd.words import encoded, is_sent, quoted, survives

NASTY = [
    "",
    "$HOME ${HOME} $$",
    "a;b ; c",
    "%h %% =24 =",
    "'q' \"d\" `b` \\ \\x41",
    "tab\tnewline\nreturn\rbell\x07",
    "é ☃",
    "-x",
    os.fsdecode(b"\xff\xfe not UTF-8"),
]
TEXT = st.binary().map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


@given(TEXT)
@example("=3D")
@example("a=\n")
def test_encoded_words_survive_and_come_back(word: str) -> None:
    assert survives(encoded(word))
    assert stamp.decoded(encoded(word)) == word


@given(TEXT)
def test_what_survives_has_nothing_that_systemd_changes(word: str) -> None:
    if survives(word):
        assert not set("$;") & set(word)
        word.encode()


@pytest.mark.parametrize("word", ["a$b", "a;b", "a\x1bb", "\udcff"])
def test_what_does_not_survive(word: str) -> None:
    assert not survives(word)


def test_what_systemd_takes_as_a_variable() -> None:
    assert is_sent("$HOME; tab\t newline\n é")
    assert not is_sent("bell\x07")
    assert not is_sent("\udcff")


def test_what_is_no_text_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="no valid text"):
        encoded("\ud800")


def test_quotes_are_systemds() -> None:
    assert quoted('a "b" \\n\n') == '"a \\"b\\" \\\\n\\n"'


def test_the_helper_hands_every_word_on_as_it_was() -> None:
    show = "import os,sys; os.write(1, b'|'.join(map(os.fsencode, sys.argv[1:])))"
    command = [sys.executable, "-I", "-S", "-c", show, *NASTY]
    assert _run_by_helper({}, command).split(b"|") == [os.fsencode(word) for word in NASTY]


def test_the_helper_adds_variables_and_leaves_the_others_alone() -> None:
    """Python itself would add LC_CTYPE to an environment as bare as this."""
    variables = {f"V{number}": word for number, word in enumerate(NASTY)}
    shown = _run_by_helper(variables, [shutil.which("env") or "env", "-0"]).split(b"\0")[:-1]
    expected = {"A": "b c", **variables}
    assert sorted(shown) == sorted(os.fsencode(f"{k}={v}") for k, v in expected.items())


def test_the_helper_says_what_cannot_be_executed() -> None:
    command = [sys.executable, "-I", "-S", "-c", RUN, "0", "/nowhere/to be found"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        203,
        "/nowhere/to be found: No such file or directory\n",
    )


def test_the_helper_is_itself_a_word_that_survives() -> None:
    assert survives(RUN)


def test_signals_are_as_the_helper_found_them() -> None:
    """Python ignores SIGXFSZ; the program must be killed by it as without the helper."""
    status = ("/bin/sh", "-c", "grep SigIgn /proc/self/status")
    command = [sys.executable, "-I", "-S", "-c", RUN, "0", *map(encoded, status)]
    ignored = int(subprocess.check_output(command, restore_signals=True).split()[1], 16)
    assert not ignored >> (signal.SIGXFSZ - 1) & 1


def test_the_interpreter_is_not_that_of_a_virtual_environment() -> None:
    spec = WorkerSpec("llm", "1", ("/bin/true",))
    found = program.interpreter(spec, account_of(None))
    assert os.access(found, os.X_OK)
    assert os.path.realpath(found) == found


def _run_by_helper(variables: dict[str, str], command: list[str]) -> bytes:
    words = [*(encoded(f"{name}={value}") for name, value in variables.items())]
    argv = [str(len(words)), *words, *map(encoded, command)]
    helper = [sys.executable, "-I", "-S", "-c", RUN, *argv]
    return subprocess.run(helper, env={"A": "b c"}, capture_output=True, check=True).stdout
