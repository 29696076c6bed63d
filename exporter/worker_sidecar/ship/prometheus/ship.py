"""Rules into a directory that a Prometheus loads, and a look that it has loaded them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.errors import RefusedError, SidecarError
from worker_sidecar.ship.errors import ServerError, WrongServerError
from worker_sidecar.ship.http import Server
from worker_sidecar.ship.outcome import Step, Tell, check, done, summary, tell_plan
from worker_sidecar.ship.prometheus import loaded
from worker_sidecar.ship.prometheus.directory import Placed, placed, written
from worker_sidecar.ship.prometheus.loaded import Look, Wanted
from worker_sidecar.ship.rules import RuleFile, check_with_promtool

_LOOK_AGAIN = 1.0
_MOST_TOLD = 3
"""Differences that are told; the others are of the same kind."""

_LIFECYCLE = (
    "Prometheus does not reload when asked to; start it with --web.enable-lifecycle, or ship"
    " without --url and send it SIGHUP"
)


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """How rules are shipped into a directory; `wait` seconds for their first evaluation."""

    directory: str
    wait: float
    prefix: str = ""
    force: bool = False
    dry_run: bool = False


def ship(
    files: Sequence[RuleFile],
    options: DirectoryOptions,
    server: Server | None,
    tell: Tell,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Put `files` into the directory, have the Prometheus at `server` reload, look at its rules.

    Without a `server` somebody else must have it reload. Whatever fails until the rules are loaded
    puts the files back as they were. Raises RefusedError, before anything is written, for a file
    that somebody changed; InputError for rules that are wrong; else what Server.ask raises.
    """
    check_with_promtool(files)
    places = placed(options.directory, files, options.prefix, options.force)
    steps = [place.step for place in places]
    wanted = [
        Wanted(place.path, group)
        for place, file in zip(places, files, strict=True)
        for group in file.groups
    ]
    if options.dry_run:
        tell_plan(steps, tell)
    check(steps)
    if server is not None:
        _check_server(server, wanted, options.force)
    if not options.dry_run:
        if server is None:
            _without_server(places)
        else:
            _with_server(places, wanted, server, options.force)
        _tell_done(steps, tell)
    tell(summary("rule files", [step.change for step in steps], options.dry_run))
    if server is not None and not options.dry_run:
        _wait_for_health(server, wanted, options.wait, tell, sleep)


def _without_server(places: Sequence[Placed]) -> None:
    with written(places):
        pass
    if any(place.written for place in places):
        log.warn("Prometheus loads the rules when it gets SIGHUP, or is restarted")


def _with_server(
    places: Sequence[Placed], wanted: Sequence[Wanted], server: Server, force: bool
) -> None:
    if not any(place.written for place in places):
        if loaded.look(server, wanted).wrong:
            _load(server, wanted, force)
        return
    try:
        with written(places):
            _load(server, wanted, force)
    except BaseException:
        _reload_again(server)
        raise


def _load(server: Server, wanted: Sequence[Wanted], force: bool) -> None:
    _reload(server)
    _check_loaded(server, wanted)
    twice = () if force else tuple(loaded.elsewhere(server, wanted))
    if twice:
        raise ServerError("\n".join([*twice, "--force loads them twice"]))


def _tell_done(steps: Sequence[Step], tell: Tell) -> None:
    for step in steps:
        tell(done(step))


def _check_server(server: Server, wanted: Sequence[Wanted], force: bool) -> None:
    """Raises for what is no Prometheus, does not reload, or has our groups from elsewhere."""
    try:
        twice = list(loaded.elsewhere(server, wanted))
    except WrongServerError as error:
        raise WrongServerError(f"{server.url} is no Prometheus: {error}") from None
    if twice and not force:
        advice = "take that file away, or ship over it; --force loads them twice"
        raise RefusedError(
            "\n".join([*(f"{each}: {advice}" for each in twice), "nothing was shipped"])
        )
    # 404: another server with Prometheus' API, such as vmalert, which always reloads
    flags = server.get("/api/v1/status/flags", expected=(404,))
    data = flags.json().get("data") if flags.status == 200 else None
    if isinstance(data, dict) and data.get("web.enable-lifecycle") == "false":
        raise RefusedError(_LIFECYCLE)


def _reload(server: Server) -> None:
    """POST /-/reload, which answers when it is done."""
    answer = server.ask("POST", "/-/reload", expected=(403, 405, 500))
    if answer.status in (403, 405):
        raise RefusedError(f"{_LIFECYCLE} ({answer.status}: {answer.said})")
    if answer.status == 500:
        raise ServerError(
            f"Prometheus does not load its configuration with these rules: {answer.said};"
            " its log says more"
        )


def _reload_again(server: Server) -> None:
    """What was put back is loaded again."""
    try:
        answer = server.ask("POST", "/-/reload", expected=(403, 405, 500))
    except SidecarError as error:
        log.warn("Prometheus was not asked to reload what was put back", err=str(error))
        return
    if answer.status == 500:
        log.warn("Prometheus does not load its configuration without these rules either")


def _check_loaded(server: Server, wanted: Sequence[Wanted]) -> None:
    wrong = loaded.look(server, wanted).wrong
    if wrong:
        more = f" and {len(wrong) - _MOST_TOLD} more" if len(wrong) > _MOST_TOLD else ""
        raise ServerError(
            f"Prometheus has not loaded the rules: {'; '.join(wrong[:_MOST_TOLD])}{more}."
            f" {_rule_files(server)}"
        )


def _rule_files(server: Server) -> str:
    """What Prometheus says that it loads."""
    answer = server.get("/api/v1/status/config", expected=(404,))
    if answer.status != 200:
        return "Its rule_files must name the directory"
    lines = str((answer.json().get("data") or {}).get("yaml", "")).splitlines()
    if "rule_files:" not in lines:
        return "Its configuration has no rule_files; they must name the directory"
    globs = []
    for line in lines[lines.index("rule_files:") + 1 :]:
        if not line.startswith("- "):
            break
        globs.append(line.removeprefix("- "))
    return f"Its rule_files are {', '.join(globs)}; they must name the directory as it sees it"


def _wait_for_health(
    server: Server,
    wanted: Sequence[Wanted],
    wait: float,
    tell: Tell,
    sleep: Callable[[float], None],
) -> None:
    """Until each rule was evaluated. Raises ServerError for rules that fail; they stay loaded."""
    end = time.monotonic() + wait
    seen = loaded.look(server, wanted)
    if seen.pending and wait:
        tell(f"rules: loaded, waiting for the first evaluation of {seen.pending}")
    while seen.pending and not seen.sick and time.monotonic() < end:
        sleep(_LOOK_AGAIN)
        seen = loaded.look(server, wanted)
    if seen.sick:
        raise ServerError("\n".join(["the rules are loaded, but some fail:", *seen.sick]))
    tell(_health(wanted, seen))


def _health(wanted: Sequence[Wanted], seen: Look) -> str:
    rules = sum(len(each.group["rules"]) for each in wanted)
    if seen.pending:
        return f"rules: {rules} loaded, {seen.pending} of them not evaluated yet"
    return f"rules: {rules} loaded and healthy"
