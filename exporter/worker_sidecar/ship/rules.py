"""Rule files: read, checked, and with the address of the runbooks put in."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from worker_exporter import log
from worker_sidecar.errors import InputError

Group = Mapping[str, Any]
"""A rule group as a rule file has it: name, interval, rules."""

_RUNBOOK = re.compile(r"^(\s*(?:- )?runbook_url:\s*)(docs/\S+)\s*$", re.MULTILINE)
"""A runbook that is named by its path in the repository."""


class _AsWritten(yaml.SafeLoader):
    """Takes `yes`, `08` and `2020-01-01` for text, as Prometheus does where it wants text."""


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_TEXTS = ("name", "labels", "rules")
"""The keys of a group that hold texts only; others, such as limit, are numbers and the like."""

_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?"
)
_SECONDS = (31_536_000.0, 604_800.0, 86_400.0, 3600.0, 60.0, 1.0, 0.001)


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule file: its name, its text, and the groups that stand in it."""

    name: str
    text: str
    groups: Sequence[Group]


def load(files: Mapping[str, str], runbooks: str | None) -> Sequence[RuleFile]:
    """The rule files of these names and texts, with the URL `runbooks` before each runbook's path.

    Raises InputError for what is no rule file.
    """
    if runbooks is not None and not re.fullmatch(r"https?://\S+", runbooks):
        raise InputError(f"{runbooks} is no URL of the form https://host/path")
    loaded = [_load(name, text, runbooks) for name, text in files.items()]
    groups = [str(group["name"]) for file in loaded for group in file.groups]
    for name in groups:
        if groups.count(name) > 1:
            raise InputError(f"two rule groups are named {name}")
    if runbooks is None and any(_RUNBOOK.search(file.text) for file in loaded):
        log.warn("runbook_url is a path in the repository; --runbooks URL makes it a link")
    return loaded


def check_with_promtool(files: Sequence[RuleFile]) -> None:
    """Raises InputError for what promtool finds wrong; where it is not installed, nothing."""
    promtool = shutil.which("promtool")
    if promtool is None:
        log.info("promtool is not installed: only the server will say what is wrong with the rules")
        return
    with tempfile.TemporaryDirectory(prefix="worker-sidecar-") as directory:
        for file in files:
            Path(directory, file.name).write_text(file.text, encoding="utf-8")
        said = subprocess.run(
            [promtool, "check", "rules", "--", *(file.name for file in files)],
            cwd=directory,
            capture_output=True,
            text=True,
        )
    if said.returncode != 0:
        raise InputError(f"promtool check rules: {' '.join((said.stderr or said.stdout).split())}")


def split(groups: Sequence[Group], most: int | None) -> Sequence[Group]:
    """`groups`, those with more than `most` rules as several; Mimir allows 20 unless it is told."""
    if most is None:
        return groups
    return [piece for group in groups for piece in _pieces(group, most)]


def seconds(duration: object) -> float:
    """A Prometheus duration (`1m30s`, `500ms`) in seconds; 0 for none. Raises InputError."""
    if duration in (None, "", "0", 0):
        return 0.0
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise InputError(f"{duration} is no duration of Prometheus, such as 1m30s")
    return sum(
        int(count) * unit for count, unit in zip(match.groups(), _SECONDS, strict=True) if count
    )


def _load(name: str, text: str, runbooks: str | None) -> RuleFile:
    _groups(name, text)
    if runbooks is not None:
        base = runbooks.rstrip("/")
        # a function, for a URL may hold a backslash or \1
        text = _RUNBOOK.sub(lambda match: f"{match[1]}{base}/{match[2]}", text)
    return RuleFile(name, text, _groups(name, text))


def _groups(name: str, text: str) -> Sequence[Group]:
    try:
        typed, written = yaml.safe_load(text), yaml.load(text, _AsWritten)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    groups = typed.get("groups") if isinstance(typed, dict) else None
    if not isinstance(groups, list) or not groups:
        raise InputError(f"{name} is no rule file: it has no groups")
    for group, texts in zip(groups, written["groups"], strict=True):
        _check_group(name, texts)
        group.update((key, texts[key]) for key in _TEXTS if key in texts)
    return groups


def _check_group(name: str, group: object) -> None:
    if not isinstance(group, dict) or not group.get("name"):
        raise InputError(f"{name}: a group has no name")
    rules = group.get("rules")
    if not isinstance(rules, list) or not rules:
        raise InputError(f"{name}: the group {group['name']} has no rules")
    seconds(group.get("interval"))
    for rule in rules:
        if not isinstance(rule, dict) or ("alert" in rule) == ("record" in rule):
            raise InputError(f"{name}: each rule of {group['name']} must be an alert or a record")
        if not isinstance(rule.get("expr"), str):
            what = rule.get("alert") or rule.get("record")
            raise InputError(f"{name}: the rule {what} has no expr")
        seconds(rule.get("for"))
        seconds(rule.get("keep_firing_for"))


def _pieces(group: Group, most: int) -> Iterator[Group]:
    rules = group["rules"]
    for number, start in enumerate(range(0, len(rules), most)):
        name = group["name"] if number == 0 else f"{group['name']}-{number + 1}"
        yield {**group, "name": name, "rules": rules[start : start + most]}
