"""As whom a worker runs."""

import os
import pwd

import pytest

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.account import account_of

NOBODY = pwd.getpwnam("nobody")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another one")


@AS_ROOT
@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid)])
def test_an_account_by_name_or_number(user: str) -> None:
    account = account_of(user)
    assert (account.uid, account.gid, account.switch) == (NOBODY.pw_uid, NOBODY.pw_gid, True)
    assert NOBODY.pw_gid in account.groups
    assert account.environment == {
        "HOME": NOBODY.pw_dir,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "SHELL": NOBODY.pw_shell,
    }


def test_without_a_user_it_is_our_own() -> None:
    account = account_of(None)
    assert (account.uid, account.switch) == (os.geteuid(), False)


@AS_ROOT
def test_root_by_name_drops_what_groups_we_have() -> None:
    assert account_of("root").switch


@AS_ROOT
def test_a_number_without_an_account_has_a_group_of_its_own() -> None:
    account = account_of("54321")
    assert (account.uid, account.gid, account.groups, account.name) == (54321, 54321, (), None)
    assert account.environment == {}


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("no_such_user", "there is no user 'no_such_user' on this host"),
        ("", "there is no user ''"),
        ("a\0", "there is no user"),
        ("-1", "there is no user '-1'"),
        ("\u0661", "there is no user"),
        ("4294967295", "user 4294967295 is no uid: it goes to 4294967294"),
    ],
)
def test_users_that_are_none(user: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        account_of(user)


def test_without_root_nobody_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    assert account_of("nobody").switch is False
    assert account_of(None).switch is False
    with pytest.raises(RefusedError, match="cannot start a worker as user root: only root can"):
        account_of("root")
