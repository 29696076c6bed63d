"""What the pages refer to is there: links and their anchors, runbooks, files, targets of make."""

import glob
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]
RUNBOOKS = ROOT / "docs/runbooks"
SOURCES = ("alerts", "dashboards", "deploy", "exporter", "bench")
"""Where comments and messages may name a page."""

_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6} +(.+?) *#* *$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_FILE = re.compile(
    r"(?<![\w./-])(?:alerts|bench|dashboards|deploy|docs|exporter|requirements|tests)"
    r"/[\w./*{},-]*\w[/}]?"
)
_MAKE = re.compile(r"(?:^|[`;&|] ?)make ([a-z][a-z-]*)", re.MULTILINE)
_PAGE = re.compile(r"(?<![\w./-])docs/[\w./-]+\.md(?:#[\w-]+)?")


def links(text: str) -> list[str]:
    """The targets of all links of a page; what stands in code is none."""
    prose = _SPAN.sub("", _FENCE.sub("", text))
    return [*_LINK.findall(prose), *_DEFINITION.findall(prose)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: a second one of a name gets -1."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        copies = (f"{slug}-{number}" for number in range(1, 1000))
        found.add(slug if slug not in found else next(each for each in copies if each not in found))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """The links of `text`, which stands in `page`, that lead nowhere."""
    return [
        target
        for target in links(text)
        if not _ELSEWHERE.match(target) and not leads_somewhere(page, target)
    ]


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists() or not there.is_relative_to(ROOT):
        return False
    if not anchor:
        return True
    return there.suffix == ".md" and anchor in anchors(there.read_text())


def code(text: str) -> Iterator[str]:
    """Every piece of code of a page, in a line or a block."""
    for block in _FENCE.finditer(text):
        yield block[0]
    for span in _SPAN.finditer(_FENCE.sub("", text)):
        yield span[2]


def absent_files(text: str) -> list[str]:
    """The files and folders of the repository that a page's code names and that are not there."""
    names = {match[0] for piece in code(text) for match in _FILE.finditer(piece)}
    return sorted(name for name in names if not all(map(exists, alternatives(name))))


def alternatives(name: str) -> list[str]:
    """What a name with {a,b} stands for."""
    found = re.search(r"\{([^{}]*)\}", name)
    if found is None:
        return [name]
    wholes = (name[: found.start()] + each + name[found.end() :] for each in found[1].split(","))
    return [name for whole in wholes for name in alternatives(whole)]


def exists(name: str) -> bool:
    return bool(glob.glob(name, root_dir=ROOT))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert absent_files(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_that_a_page_names_are_there(page: Path) -> None:
    known = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for piece in code(page.read_text()) for target in _MAKE.findall(f"`{piece}")}
    assert named <= known


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [each for each in links(page.read_text()) if not _ELSEWHERE.match(each)]
        there = ((page.parent / each.partition("#")[0]).resolve() for each in targets)
        ahead += [each for each in there if each in PAGES]
    assert set(DOCS) - seen == set()


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    document = yaml.safe_load((ROOT / "alerts/alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]
    named = {rule["alert"]: ROOT / rule["annotations"]["runbook_url"] for rule in rules}
    assert {name: page.stem for name, page in named.items()} == {name: name for name in named}
    pages = set(RUNBOOKS.glob("*.md")) - {RUNBOOKS / "README.md"}
    assert set(named.values()) == pages


def test_pages_that_files_name_are_there() -> None:
    """In comments of configurations, in messages, in links of dashboards."""
    absent = {
        (str(file.relative_to(ROOT)), name)
        for folder in SOURCES
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yml", ".yaml", ".json", ".service", ".socket", ".c", ".md")
        for name in _PAGE.findall(file.read_text())
        if not leads_somewhere(ROOT / "README.md", name)
    }
    assert absent == set()


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](docs/workers.md)", []),
        ("[a](docs/workers.md#patterns) and [b](Makefile)", []),
        ("[a](docs/absent.md)", ["docs/absent.md"]),
        ("[a](docs/workers.md#absent)", ["docs/workers.md#absent"]),
        ("[a](#absent)", ["#absent"]),
        ("[a](Makefile#x)", ["Makefile#x"]),
        ("[a](../outside)", ["../outside"]),
        ("![a](docs/absent.png 'x')\n", []),
        ('![a](docs/absent.png "title")', ["docs/absent.png"]),
        ("[a [b]](absent)", ["absent"]),
        ("[a]: absent.md", ["absent.md"]),
        ("<https://example.org> [a](https://example.org/absent) [b](mailto:a@example.org)", []),
        ("`[a](absent)` and ``[a](absent) ` ``", []),
        ("```sh\n[a](absent)\n```\n[b](gone)", ["gone"]),
        ("- x\n\n  ```sh\n  [a](absent)\n  ```\n", []),
    ],
)
def test_a_broken_link_is_seen(text: str, broken: list[str]) -> None:
    assert broken_links(ROOT / "README.md", text) == broken


def test_anchors_are_githubs() -> None:
    text = "# A `b` c!\n## The [link](x.md), too\n## Twice\n## Twice\n```\n# no heading\n```\n"
    text += '### What\'s "x"? ##\n'
    assert anchors(text) == {"a-b-c", "the-link-too", "twice", "twice-1", "whats-x"}


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("`alerts/alerts.yml` `deploy/worker-sidecar/` `tests/vm`", []),
        ("`alerts/*.yml` `alerts/{alerts,recording}.yml`", []),
        ("`alerts/absent.yml`", ["alerts/absent.yml"]),
        ("`alerts/{alerts,absent}.yml`", ["alerts/{alerts,absent}.yml"]),
        ("`alerts/*.absent`", ["alerts/*.absent"]),
        ("```sh\ncp alerts/absent.yml /etc/\n```", ["alerts/absent.yml"]),
        ("alerts/absent.yml in prose, `/etc/alerts/absent.yml`, `http://h/docs/absent`", []),
    ],
)
def test_a_file_that_is_not_there_is_seen(text: str, absent: list[str]) -> None:
    assert absent_files(text) == absent
