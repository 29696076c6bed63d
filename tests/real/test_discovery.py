"""Real cgroups come, go and change places between scrapes: an exporter that remembers what it
found must find what one that has just started finds.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.support import remove_cgroup

from worker_exporter.cgroup.descriptors import Descriptors
from worker_exporter.scrape import Scraper, Settings

SLICE = f"discoverytest{os.getpid()}.slice"
STEM = SLICE.removesuffix(".slice")
LLM = f"{STEM}-llm.slice"
SEEDS = [int(seed) for seed in os.environ.get("DISCOVERY_SEEDS", "1,2,3").split(",")]
STEPS = 60

PLACES = (
    f"{LLM}/{STEM}-llm@1.service",
    f"{LLM}/{STEM}-llm@2.service",
    f"{LLM}/{STEM}-llm@2.service/nested",
    f"{LLM}/odd",
    f"{LLM}/{STEM}-llm-8090.slice",
    f"{LLM}/{STEM}-llm-8090.slice/payload.scope",
    f"{STEM}-tts.slice/{STEM}-tts@1.service",
    f"{STEM}-tts.slice/other-2.scope",
    "llm-1.scope",
    "batch/7",
    "batch/8",
)


@pytest.fixture
def scraper(place: Path) -> Iterator[Scraper]:
    scraper = Scraper(Settings(slices=(SLICE,), buses={}))
    yield scraper
    scraper.close()


def make(place: Path, *workers: str) -> None:
    for worker in workers:
        (place / worker).mkdir(parents=True, exist_ok=True)


def found(scraper: Scraper, collectors: frozenset[str]) -> dict[str, int]:
    """What a scrape by `collectors` says: each worker's path with its inode, and the counts."""
    scraper.scrape(collectors)
    tree = scraper._tree
    paths = {path: worker.inode for path, worker in tree.workers.items()}
    return {**paths, "duplicates": tree.duplicates, "dropped": tree.dropped}


def found_anew() -> dict[str, int]:
    fresh = Scraper(Settings(slices=(SLICE,), buses={}))
    try:
        return found(fresh, fresh.names)
    finally:
        fresh.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_old_exporter_finds_what_a_new_one_finds(
    place: Path, scraper: Scraper, seed: int
) -> None:
    chance = random.Random(seed)
    subsets = (scraper.names, frozenset({"node"}), frozenset({"cpu"}))
    for _ in range(STEPS):
        for _ in range(chance.randint(1, 3)):
            directory = place / chance.choice(PLACES)
            if directory.exists():
                remove_cgroup(str(directory))
            else:
                make(place, str(directory.relative_to(place)))
        assert found(scraper, chance.choice(subsets)) == found_anew()


@pytest.mark.parametrize(
    ("before", "gone", "comes"),
    [
        ("{llm}/a-1.scope", "{llm}/a-1.scope", "{llm}/a-2.scope"),
        ("{llm}/a-1.scope", "{llm}/a-1.scope", "{llm}/a-1.scope"),
        ("{llm}/odd", "{llm}/odd", "{llm}/a-1.scope"),
        ("{llm}/a-1.scope", "{llm}", "{llm}/a-1.scope"),
        ("{llm}/a-1.scope", "{llm}", "{tts}/b-1.scope"),
        ("batch/7", "batch", "batch/8"),
        ("{llm}/a-1.scope a-1.scope", "a-1.scope", "{llm}/b-1.scope"),
        ("{llm}/a-1.scope a-1.scope", "{llm}/a-1.scope", "{llm}/b-1.scope"),
    ],
    ids=[
        "another worker",
        "a worker made anew",
        "a worker for something else",
        "a slice made anew",
        "another slice",
        "a directory made anew",
        "the served one of two with one name",
        "the other one of two with one name",
    ],
)
def test_what_takes_the_place_of_another_is_in_the_next_scrape(
    place: Path, scraper: Scraper, before: str, gone: str, comes: str
) -> None:
    names = {"llm": LLM, "tts": f"{STEM}-tts.slice"}
    make(place, *before.format(**names).split())
    found(scraper, scraper.names)
    found(scraper, scraper.names)
    remove_cgroup(str(place / gone.format(**names)))
    make(place, comes.format(**names))
    assert found(scraper, scraper.names) == found_anew()


@pytest.mark.parametrize("available", [0, 1, 5])
def test_who_has_no_descriptor_left_is_seen_to_start_again(
    place: Path, available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Descriptors, "of_process", lambda: Descriptors(available))
    workers = [f"{LLM}/{STEM}-llm@{number}.service" for number in range(3)]
    make(place, *workers)
    scraper = Scraper(Settings(slices=(SLICE,), buses={}))
    try:
        found(scraper, scraper.names)
        for worker in workers:
            remove_cgroup(str(place / worker))
            make(place, worker)
            assert found(scraper, scraper.names) == found_anew()
    finally:
        scraper.close()


def test_what_did_not_change_is_not_listed_again(place: Path, scraper: Scraper) -> None:
    make(place, *(f"{LLM}/llm-{instance}.scope" for instance in range(20)))
    before = found(scraper, scraper.names)
    assert len(before) == 22
    with patch.object(scraper._tree, "_list", wraps=scraper._tree._list) as listing:
        assert found(scraper, scraper.names) == before
    listed = [path for (path, _), _ in listing.call_args_list]
    assert not [path for path in listed if path.startswith(SLICE)]
