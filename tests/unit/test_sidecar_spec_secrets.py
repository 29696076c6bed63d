"""Secrets: files nobody else can read, and users that nobody else runs as."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tools import missing
from tests.unit.spec_support import read, refusal

from worker_sidecar.errors import InputError, RefusedError

SECRET = "hunter2-never-shown"

Write = Callable[[str, int], str]


@pytest.fixture(autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        missing("root, whose the files of secrets are")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a file of secrets with a mode, and gives its path."""

    def write_file(name: str, mode: int) -> str:
        path = tmp_path / name
        path.write_text(f"TOKEN={SECRET}\n")
        path.chmod(mode)
        return str(path)

    return write_file


def one(user: str, secrets: str) -> str:
    """A service `a` with secrets."""
    head = f"services:\n  a:\n    command: [x]\n    user: {user}\n"
    return f"{head}    {secrets}\n    instances: {{i: }}\n"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_secrets_of_a_user_of_its_own(tmp_path: Path, write: Write, mode: int) -> None:
    token, env = write("token", mode), write("env", mode)
    text = one("61001", f"secrets: {{token: {token}}}\n    secret_env: {env}")
    spec = read(tmp_path, text).workers[0].spec
    assert (spec.secrets, spec.secret_env, spec.user) == ({"token": token}, env, "61001")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
@pytest.mark.parametrize("key", ["secrets: {t: %s}", "secret_env: %s"])
def test_files_that_others_can_use_are_refused(
    tmp_path: Path, write: Write, mode: int, key: str
) -> None:
    path = write("token", mode)
    error = refusal(tmp_path, one("61001", key % path))
    assert isinstance(error, RefusedError)
    name = "secrets.t" if "{" in key else "secret_env"
    assert str(error) == (
        f"{tmp_path}/workers.yaml:5: services.a.{name}: {path} can be read or written by others"
        f" (mode {mode:04o}); run chmod 0600 {path}"
    )
    assert SECRET not in str(error)


def test_files_of_somebody_else_are_refused(tmp_path: Path, write: Write) -> None:
    path = write("token", 0o600)
    os.chown(path, 61001, 61001)
    error = refusal(tmp_path, one("61001", f"secret_env: {path}"))
    assert isinstance(error, RefusedError)
    assert f"{path} belongs to uid 61001; it must belong to root or to ourselves" in str(error)


def test_files_that_are_none(tmp_path: Path) -> None:
    error = refusal(tmp_path, one("61001", f"secret_env: {tmp_path}/none"))
    assert type(error) is InputError
    assert f"{tmp_path}/none cannot be examined: No such file or directory" in str(error)
    error = refusal(tmp_path, one("61001", "secrets: {t: /dev/null}"))
    assert "services.a.secrets.t: /dev/null is no ordinary file" in str(error)


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("root", "services.a: has secrets, so its workers need a uid of their own"),
        ("0", "services.a: has secrets, so its workers need a uid of their own"),
        ("nobody", "services.a.user: nobody is everybody's: with secrets give a user"),
        ("65534", "services.a.user: 65534 is everybody's: with secrets give a user"),
    ],
)
def test_users_that_are_no_ones_own_are_refused(
    tmp_path: Path, write: Write, user: str, said: str
) -> None:
    error = refusal(tmp_path, one(user, f"secret_env: {write('env', 0o600)}"))
    assert isinstance(error, RefusedError) and said in str(error)


@pytest.mark.parametrize(("user", "other"), [("61001", "61001"), ("daemon", "1"), ("1", "daemon")])
def test_a_user_that_another_service_runs_as_is_refused(
    tmp_path: Path, write: Write, user: str, other: str
) -> None:
    text = one(user, f"secret_env: {write('env', 0o600)}")
    text += f"  b: {{command: [x], user: {other}}}\n"
    error = refusal(tmp_path, text)
    assert isinstance(error, RefusedError)
    assert f":4: services.a.user: service b runs as {user} too" in str(error)
    assert read(tmp_path, text.replace(f"user: {other}}}", "user: 61002}")).workers


def test_the_sidecar_of_a_user_keeps_secrets_for_one_service(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1)
    text = one("daemon", f"secret_env: {write('env', 0o600)}")
    assert len(read(tmp_path, text).workers) == 1
    error = refusal(tmp_path, f"{text}  b: {{command: [x]}}\n")
    assert isinstance(error, RefusedError) and "service b runs as daemon too" in str(error)
    error = refusal(tmp_path, text.replace("    user: daemon\n", ""))
    assert isinstance(error, RefusedError) and "need a uid of their own: give a user" in str(error)


def test_without_secrets_users_may_be_shared(tmp_path: Path) -> None:
    text = "services: {a: {command: [x], user: nobody}, b: {command: [x], user: nobody}}"
    assert len(read(tmp_path, text).services) == 2


def test_a_fault_beside_a_refusal_is_bad_input(tmp_path: Path, write: Write) -> None:
    text = one("61001", f"secret_env: {write('env', 0o644)}") + "  b: {command: [x]}\n"
    error = refusal(tmp_path, text)
    assert type(error) is InputError
    assert str(error).count("\n") == 1
