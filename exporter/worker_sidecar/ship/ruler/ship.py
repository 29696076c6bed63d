"""Rule groups into a namespace of a ruler: compared, written one by one, read back."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker_exporter import log
from worker_sidecar.errors import InputError, SidecarError
from worker_sidecar.ship.compare import diff, yaml_text
from worker_sidecar.ship.errors import ServerError
from worker_sidecar.ship.outcome import Change, Step, Tell, check, done, summary, tell_plan
from worker_sidecar.ship.ruler.api import Ruler
from worker_sidecar.ship.rules import Group, seconds

_NO_NAMES = ("", ".", "..")
"""Parts of a path that would lead elsewhere, such as to all namespaces."""

_PIECE = re.compile(r"-\d+$")
"""What the name of a group that was split ends in."""

_DURATIONS = ("interval", "for", "keep_firing_for")


@dataclass(frozen=True, slots=True)
class _Planned:
    """What to do with one group: what is there (None: nothing), and what is to be."""

    there: Group | None
    wanted: Group | None
    step: Step


@dataclass(frozen=True, slots=True)
class RulerOptions:
    """How groups are shipped; `force` takes a namespace that holds only others'."""

    namespace: str
    force: bool = False
    dry_run: bool = False


def ship(ruler: Ruler, groups: Sequence[Group], options: RulerOptions, tell: Tell) -> None:
    """Make the namespace hold exactly `groups`. What is the same is left alone.

    When a group cannot be written, or nobody wants to know, those before it are put back as they
    were. Raises what Server.ask raises, RefusedError for a namespace of somebody else's, and
    InputError for one that can be none, and for a group that the ruler refuses.
    """
    namespace = options.namespace
    if namespace in _NO_NAMES or "/" in namespace:
        raise InputError("--namespace takes a name without /, which is not . or ..")
    plans = _planned(ruler.groups(namespace), groups, options.force)
    steps = [plan.step for plan in plans]
    if options.dry_run:
        tell_plan(steps, tell)
    check(steps)
    if not options.dry_run:
        _write(ruler, namespace, plans, tell)
        _check_written(ruler, namespace, groups)
    tell(summary("rule groups", [step.change for step in steps], options.dry_run))


def _planned(there: Sequence[Group], wanted: Sequence[Group], force: bool) -> Sequence[_Planned]:
    """First what is to be written, then what is to be deleted."""
    old = {str(group["name"]): group for group in there}
    names = {str(group["name"]) for group in wanted}
    written = [_written(old.get(str(group["name"])), group) for group in wanted]
    gone = [group for name, group in old.items() if name not in names]
    if force or _is_ours(old, names):
        return [*written, *(_deleted(group) for group in gone)]
    return [*written, *(_foreign(group) for group in gone)]


def _is_ours(there: Collection[str], wanted: Collection[str]) -> bool:
    """Whether groups were shipped into the namespace before, if perhaps in more or fewer pieces."""
    stems = {_PIECE.sub("", name) for name in wanted}
    return any(_PIECE.sub("", name) in stems for name in there)


def _written(there: Group | None, wanted: Group) -> _Planned:
    name = str(wanted["name"])
    if there is None:
        return _Planned(None, wanted, Step(name, Change.CREATED))
    if _is_same(there, wanted):
        return _Planned(there, wanted, Step(name, Change.UNCHANGED))
    lines = diff(name, yaml_text(_plain(there)), yaml_text(_plain(wanted)))
    return _Planned(there, wanted, Step(name, Change.UPDATED, diff=tuple(lines)))


def _deleted(there: Group) -> _Planned:
    return _Planned(there, None, Step(str(there["name"]), Change.DELETED, "no longer shipped"))


def _foreign(there: Group) -> _Planned:
    why = "the namespace holds nothing of ours: name another, or --force deletes this"
    return _Planned(there, None, Step(str(there["name"]), Change.REFUSED, why))


def _write(ruler: Ruler, namespace: str, plans: Sequence[_Planned], tell: Tell) -> None:
    changed: list[_Planned] = []
    try:
        for plan in plans:
            if plan.step.change is not Change.UNCHANGED:
                # before it is tried: an answer that was lost may hide that it is written
                changed.append(plan)
                _set(ruler, namespace, plan.step.name, plan.wanted)
            tell(done(plan.step))
    except SidecarError as error:
        raise type(error)(f"{error}\n{_put_back(ruler, namespace, changed)}") from None
    except BaseException:
        # Ctrl-C, or nobody reads what is told
        log.warn(_put_back(ruler, namespace, changed))
        raise


def _set(ruler: Ruler, namespace: str, name: str, group: Group | None) -> None:
    if group is None:
        ruler.delete(namespace, name)
    else:
        ruler.put(namespace, group)


def _put_back(ruler: Ruler, namespace: str, changed: Sequence[_Planned]) -> str:
    """What becomes of the groups that were written before the one that failed."""
    left = []
    for plan in reversed(changed):
        try:
            _set(ruler, namespace, plan.step.name, plan.there)
        except SidecarError as error:
            log.warn("not put back", group=plan.step.name, err=str(error))
            left.append(plan.step.name)
    if left:
        return f"could not be put back as it was: {', '.join(left)}"
    return "all groups are put back as they were"


def _check_written(ruler: Ruler, namespace: str, groups: Sequence[Group]) -> None:
    there = {str(group["name"]): group for group in ruler.groups(namespace)}
    for group in groups:
        name = str(group["name"])
        if name not in there:
            raise ServerError(f"the ruler took {name}, but does not have it")
        if not _is_same(there[name], group):
            raise ServerError(f"the ruler took {name}, but has another one")


def _is_same(there: Group, wanted: Group) -> bool:
    """Whether a group is as it should be, in an interval of the server's where it asks for none."""
    interval = {} if "interval" in wanted else {"interval": there.get("interval")}
    return _plain(there) == _plain({**wanted, **interval})


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group in the form that can be compared: servers add empty keys and respell durations."""
    plain = _without_empty(group)
    plain["rules"] = [_without_empty(rule) for rule in group.get("rules") or []]
    return plain


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: _value(key, value) for key, value in document.items()}
    return {key: value for key, value in values.items() if value}


def _value(key: str, value: object) -> object:
    if key in _DURATIONS:
        return f"{seconds(value):g}s" if seconds(value) else None
    return str(value).strip() if key == "expr" else value
