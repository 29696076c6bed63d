"""Which workers exist, on directories that come and go."""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.trees import kernel

from worker_exporter.cgroup.files import Kernel
from worker_exporter.cgroup.members import Member, ServiceSlice, Worker
from worker_exporter.cgroup.mount import Mount
from worker_exporter.cgroup.roots import MAX_DEPTH, Scope
from worker_exporter.cgroup.tree import Tree

SCOPE = Scope(("worker.slice",))
LLM = "worker.slice/worker-llm.slice"


class Sight:
    """A tree of directories, and what was seen of it at the last look."""

    def __init__(self, root: Path, scope: Scope) -> None:
        self.root = root
        self.kernel: Kernel = kernel(root)
        self.tree = Tree(Mount(str(root)), scope, self.kernel)

    def make(self, *paths: str) -> None:
        for path in paths:
            (self.root / path).mkdir(parents=True)

    def remove(self, path: str) -> None:
        # Moved away rather than removed: its inode number must not be used again.
        grave = self.root.parent / "graves"
        grave.mkdir(exist_ok=True)
        (self.root / path).rename(grave / str(len(os.listdir(grave))))

    def look(self, kind: type[Member] = Worker) -> tuple[list[str], list[str]]:
        """The paths of the members of one kind that are gone, and that appeared."""
        gone, appeared = self.tree.refresh()
        return _paths(gone, kind), _paths(appeared, kind)

    @property
    def names(self) -> list[str]:
        identities = [worker.identity for worker in self.tree.workers.values()]
        return [f"{each.service}/{each.instance}" for each in identities]


def _paths(members: list[Member], kind: type[Member]) -> list[str]:
    return [member.path for member in members if isinstance(member, kind)]


def see(root: Path, scope: Scope = SCOPE) -> Sight:
    (root / "cgroup").mkdir()
    return Sight(root / "cgroup", scope)


def test_workers_appear_and_go(tmp_path: Path) -> None:
    sight = see(tmp_path)
    assert sight.look() == ([], [])
    sight.make(f"{LLM}/worker-llm@8080.service")
    assert sight.look() == ([], [f"{LLM}/worker-llm@8080.service"])
    assert sight.look() == ([], [])
    sight.make("worker.slice/batch-1.scope", "worker.slice/train/0")
    assert sight.look() == ([], ["worker.slice/batch-1.scope", "worker.slice/train/0"])
    sight.remove(f"{LLM}/worker-llm@8080.service")
    assert sight.look() == ([f"{LLM}/worker-llm@8080.service"], [])
    assert sight.names == ["batch/1", "train/0"]
    sight.remove("worker.slice")
    assert sight.look() == (["worker.slice/batch-1.scope", "worker.slice/train/0"], [])
    assert sight.tree.workers == {}


@pytest.mark.parametrize("renewed", ["worker.slice/batch-1.scope", "worker.slice"])
def test_the_same_name_with_another_inode_is_another_worker(tmp_path: Path, renewed: str) -> None:
    sight = see(tmp_path)
    path = "worker.slice/batch-1.scope"
    sight.make(path)
    sight.look()
    [before] = sight.tree.workers.values()
    sight.remove(renewed)
    sight.make(path)
    assert sight.look() == ([path], [path])
    [after] = sight.tree.workers.values()
    assert after is not before
    assert after.inode == (sight.root / path).stat().st_ino
    assert after.parent is not None
    assert after.parent.inode == (sight.root / "worker.slice").stat().st_ino


def test_what_nests_in_a_worker_belongs_to_it(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make("worker.slice/llm@1.service/inner@2.service/x")
    assert sight.look() == ([], ["worker.slice/llm@1.service"])


def test_ancestors_are_shared_and_end_below_the_root(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(f"{LLM}/worker-llm@1.service", f"{LLM}/worker-llm@2.service")
    sight.look()
    one, two = sight.tree.workers.values()
    assert [each.path for each in one.ancestors()] == [LLM, "worker.slice"]
    assert list(one.ancestors()) == list(two.ancestors())


def test_of_two_with_one_identity_the_first_is_kept(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(
        "worker.slice/a.slice/llm@8080.service",
        "worker.slice/llm-8080.scope",
        "worker.slice/llm/8080",
    )
    sight.look()
    assert list(sight.tree.workers) == ["worker.slice/a.slice/llm@8080.service"]
    assert sight.tree.duplicates == 2
    sight.remove("worker.slice/a.slice")
    gone, appeared = sight.look()
    assert gone == ["worker.slice/a.slice/llm@8080.service"]
    assert appeared == ["worker.slice/llm-8080.scope"]
    assert sight.tree.duplicates == 1


def test_the_first_root_wins_whatever_its_name(tmp_path: Path) -> None:
    sight = see(tmp_path, Scope(("z.slice", "a.slice")))
    sight.make("a.slice/llm@1.service", "z.slice/llm@1.service")
    sight.look()
    assert list(sight.tree.workers) == ["z.slice/llm@1.service"]
    assert sight.tree.duplicates == 1


def test_slices_may_overlap(tmp_path: Path) -> None:
    sight = see(tmp_path, Scope(("my.slice", "my-team.slice", "my.slice")))
    sight.make("my.slice/my-team.slice/llm@1.service", "my.slice/b@2.service")
    sight.look()
    assert sight.names == ["b/2", "llm/1"]
    assert sight.tree.duplicates == 0


def test_over_the_maximum_the_rest_is_counted(tmp_path: Path) -> None:
    sight = see(tmp_path, replace(SCOPE, max_workers=2))
    sight.make(*(f"worker.slice/llm@{number}.service" for number in range(5)))
    sight.look()
    assert sight.names == ["llm/0", "llm/1"]
    assert sight.tree.dropped == 3
    sight.remove("worker.slice/llm@0.service")
    sight.look()
    assert sight.names == ["llm/1", "llm/2"]
    assert sight.tree.dropped == 2


@pytest.mark.parametrize("name", [b"\xff@1.service", b"a\\xff@1.scope"])
def test_a_name_that_is_no_label_value_is_left_out_and_counted(tmp_path: Path, name: bytes) -> None:
    sight = see(tmp_path)
    sight.make("worker.slice/llm@1.service")
    os.mkdir(os.fsencode(sight.root / "worker.slice") + b"/" + name)
    sight.look()
    assert sight.names == ["llm/1"]
    assert sight.tree.dropped == 1


def test_odd_names_are_workers_like_others(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(
        'worker.slice/a"b@1.service', r"worker.slice/c\x0ad@1.service", "worker.slice/e\nf/2"
    )
    sight.look()
    assert sorted(sight.names) == ['a"b/1', "c\nd/1", "e\nf/2"]


def test_the_managers_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    paths = [
        f"user.slice/user-{uid}.slice/user@{uid}.service/worker.slice/llm@1.service"
        for uid in (1000, 1001, 999)
    ]
    own = see(tmp_path)
    own.make(*paths, "worker.slice/llm@2.service", "user.slice/other.slice/x")
    own.look()
    assert own.names == ["llm/2", "llm/1"]
    every = Sight(own.root, replace(SCOPE, user_managers=True))
    every.look()
    assert every.names == ["llm/2", "llm/1", "llm@999/1", "llm@1001/1"]
    assert every.tree.duplicates == 0


def test_patterns_point_outside_the_slices_and_come_first_inside(tmp_path: Path) -> None:
    patterns = (
        re.compile(r"slurm/(?P<service>job)_(?P<instance>\d+)"),
        re.compile(r"worker\.slice/(?P<instance>7)-(?P<service>x)\.service"),
    )
    sight = see(tmp_path, replace(SCOPE, patterns=patterns))
    sight.make("slurm/job_7/step_0", "slurm/other", "worker.slice/7-x.service", "job_8")
    sight.look()
    assert sight.names == ["x/7", "job/7"]


def test_who_nests_without_end_costs_nobody_a_scrape(tmp_path: Path) -> None:
    scope = replace(SCOPE, patterns=(re.compile(r"(?P<service>job)/(?P<instance>\d+)"),))
    sight = see(tmp_path, scope)
    sight.make("job/1", LLM + "/worker-llm@8080.service")
    deep = [sight.root / "/".join("d" * depth) for depth in range(1, 1100)]
    for directory in deep:
        directory.mkdir()
    try:
        sight.look()
        assert sight.names == ["llm/8080", "job/1"]
    finally:
        for directory in reversed(deep):  # pytest's own removal would not end either
            directory.rmdir()


def test_the_search_goes_as_deep_as_it_says(tmp_path: Path) -> None:
    sight = see(tmp_path)
    slices = ["a.slice"] * (MAX_DEPTH - 1)
    sight.make("/".join(["worker.slice", *slices, "in-1.scope"]))
    sight.make("/".join(["worker.slice", *slices, "a.slice", "out-1.scope"]))
    sight.look()
    assert sight.names == ["in/1"]


def test_a_pattern_may_name_cgroups_right_below_the_root(tmp_path: Path) -> None:
    patterns = (re.compile(r"(?P<service>job)_(?P<instance>\d+)"),)
    sight = see(tmp_path, replace(SCOPE, patterns=patterns))
    sight.make("job_7", "a/job_8")
    sight.look()
    assert sight.names == ["job/7"]
    [worker] = sight.tree.workers.values()
    assert worker.parent is None


def test_links_and_files_are_no_cgroups(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make("worker.slice", "elsewhere")
    (sight.root / "worker.slice/llm@1.service").symlink_to("../elsewhere")
    (sight.root / "worker.slice/llm@2.service").touch()
    assert sight.look() == ([], [])


def test_a_directory_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    sight = see(tmp_path)
    (sight.root / "worker.slice").symlink_to("worker.slice")
    assert sight.look() == ([], [])
    assert sight.kernel.faults.errors["directory"] == 1
    sight.look()
    assert sight.kernel.faults.errors["directory"] == 2


def test_a_slice_that_is_not_there_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sight = see(tmp_path)
    for _ in range(3):
        sight.look()
    assert len(caplog.records) == 1
    assert "worker.slice" in str(vars(caplog.records[0]))
    sight.make("worker.slice/llm@1.service")
    sight.look()
    sight.remove("worker.slice")
    sight.look()
    assert len(caplog.records) == 2


def test_a_worker_left_out_is_found_again_while_it_is_there(tmp_path: Path) -> None:
    sight = see(tmp_path)
    path = "worker.slice/llm@1.service"
    sight.make(path)
    sight.look()
    [worker] = sight.tree.workers.values()
    sight.tree.forget(worker)
    assert sight.tree.workers == {}
    assert sight.look() == ([], [path])


def test_descriptors_of_workers_are_given_back(tmp_path: Path) -> None:
    sight = see(tmp_path)
    before = sight.kernel.descriptors.available
    sight.make("worker.slice/llm@1.service", "worker.slice/llm@2.service")
    sight.look()
    assert sight.kernel.descriptors.available == before - 2
    sight.remove("worker.slice")
    sight.look()
    assert sight.kernel.descriptors.available == before


def test_the_outermost_worker_counts_whichever_root_found_it(tmp_path: Path) -> None:
    patterns = (re.compile(r"(?P<service>worker)\.(?P<instance>slice)"),)
    sight = see(tmp_path, replace(SCOPE, patterns=patterns))
    sight.make("worker.slice/llm@1.service")
    sight.look()
    assert sight.names == ["worker/slice"]


def test_services_appear_before_their_workers_and_outlive_them(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(LLM, "worker.slice/train")
    assert sight.look(ServiceSlice) == ([], ["worker.slice/train", LLM])
    assert [each.labels for each in sight.tree.services.values()] == [
        (("service", "train"), ("instance", "")),
        (("service", "llm"), ("instance", "")),
    ]
    sight.make(f"{LLM}/worker-llm@8080.service")
    assert sight.look(ServiceSlice) == ([], [])
    sight.remove(f"{LLM}/worker-llm@8080.service")
    assert sight.look(ServiceSlice) == ([], [])
    assert list(sight.tree.services) == ["worker.slice/train", LLM]
    sight.remove(LLM)
    assert sight.look(ServiceSlice) == ([LLM], [])


def test_a_service_slice_made_anew_is_another(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(LLM)
    sight.look()
    [before] = sight.tree.services.values()
    sight.remove(LLM)
    sight.make(LLM)
    assert sight.look(ServiceSlice) == ([LLM], [LLM])
    [after] = sight.tree.services.values()
    assert after is not before
    assert after.inode == (sight.root / LLM).stat().st_ino


def test_a_forgotten_service_slice_is_found_again(tmp_path: Path) -> None:
    sight = see(tmp_path)
    sight.make(LLM)
    sight.look()
    sight.tree.forget(sight.tree.services[LLM])
    assert sight.look(ServiceSlice) == ([], [LLM])


def test_only_slices_and_plain_directories_right_in_a_root_are_services(tmp_path: Path) -> None:
    sight = see(tmp_path, Scope(("worker.slice", "worker-team.slice", "my-team.slice")))
    sight.make(
        "worker.slice/other.slice",
        "worker.slice/vllm.service/inner",
        "worker.slice/llm-8081.scope",
        f"{LLM}/worker-llm-8090.slice",
        "worker.slice/worker-team.slice/worker-team-a.slice",
        "my.slice/my-team.slice/my-team-embed.slice",
        r"worker.slice/worker-web\x2dfront.slice",
    )
    sight.look()
    assert {path: each.identity.service for path, each in sight.tree.services.items()} == {
        LLM: "llm",
        r"worker.slice/worker-web\x2dfront.slice": "web-front",
        "worker.slice/worker-team.slice/worker-team-a.slice": "a",
        "my.slice/my-team.slice/my-team-embed.slice": "embed",
    }


def test_a_pattern_that_points_into_a_service_leaves_its_slice_one(tmp_path: Path) -> None:
    pattern = re.compile(rf"{re.escape(LLM)}/(?P<service>eval)-(?P<instance>\d+)\.scope")
    sight = see(tmp_path, replace(SCOPE, patterns=(pattern,)))
    sight.make(f"{LLM}/eval-7.scope")
    assert sight.look(ServiceSlice) == ([], [LLM])
    assert sight.names == ["eval/7"]


def test_services_of_other_users_carry_their_number(tmp_path: Path) -> None:
    sight = see(tmp_path, replace(SCOPE, user_managers=True))
    manager = "user.slice/user-1001.slice/user@1001.service"
    sight.make(f"{manager}/{LLM}")
    sight.look()
    assert [each.identity.service for each in sight.tree.services.values()] == ["llm@1001"]


def test_services_over_the_maximum_are_counted(tmp_path: Path) -> None:
    sight = see(tmp_path, replace(SCOPE, max_workers=2))
    sight.make(*(f"worker.slice/worker-{name}.slice" for name in "abcd"))
    sight.look()
    assert len(sight.tree.services) == 2
    assert sight.tree.dropped == 2


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (f"{LLM}/worker-llm@8080.service", "llm/8080"),
        ("worker.slice/vllm.service", "vllm/main"),
        (f"{LLM}/worker-llm-8090.slice/docker-{'ab' * 32}.scope", None),
        ("worker.slice/vllm.service/inner@1.service", None),
        ("worker.slice/dir/deep/llm@1.service", None),
        ("system.slice/cron.service", None),
        ("system.slice/job_7.service", "job/7"),
        ("worker.slice", None),
        ("", None),
    ],
)
def test_who_a_cgroup_would_be_follows_the_same_rules(
    tmp_path: Path, path: str, named: str | None
) -> None:
    pattern = re.compile(r"system\.slice/(?P<service>job)_(?P<instance>\d+)\.service")
    sight = see(tmp_path, replace(SCOPE, patterns=(pattern,)))
    sight.look()
    identity = sight.tree.identify(path)
    assert (identity and f"{identity.service}/{identity.instance}") == named
    if path:
        sight.make(path)
    sight.look()
    found = sight.tree.workers.get(path)
    assert (found and found.identity) == identity


def test_a_worker_of_one_root_may_hold_what_another_root_would_take(tmp_path: Path) -> None:
    pattern = re.compile(r"my\.slice/(?P<service>my-team)(?P<instance>\.slice)")
    scope = Scope(("my-team.slice",), (pattern,))
    sight = see(tmp_path, scope)
    sight.make("my.slice/my-team.slice/llm@1.service")
    sight.look()
    assert list(sight.tree.workers) == ["my.slice/my-team.slice"]
    assert sight.tree.identify("my.slice/my-team.slice/llm@1.service") is None
