"""Who a cgroup is: the rows of the contract, patterns, and names that fit into no label."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_exporter.cgroup.identity import (
    Identity,
    by_path,
    by_pattern,
    check_slice,
    compile_pattern,
    is_label_value,
    literal_directory,
    may_hold_workers,
    slice_path,
    unescape,
    unit_of,
)
from worker_exporter.errors import UserError

ID = "4f" * 32
SHORT = "4f4f4f4f4f4f"

ROWS = [
    # what the sidecar makes
    ("worker", "worker-llm.slice/worker-llm@8080.service", ("llm", "8080")),
    ("worker", "worker-llm.slice/worker-llm@a.b_c.service", ("llm", "a.b_c")),
    ("worker", "worker-llm.slice/worker-llm@a@b.service", ("llm", "a@b")),
    # the sidecar's slice around a container
    ("worker", "worker-llm.slice/worker-llm-8090.slice", ("llm", "8090")),
    ("worker", r"worker-a\x2db.slice/worker-a\x2db-0.slice", ("a-b", "0")),
    ("my-team", "my-team-llm.slice/my-team-llm-8090.slice", ("llm", "8090")),
    # units
    ("rbee", "llm-8080.scope", ("llm", "8080")),
    ("rbee", "rbee-llm.slice/llm@8080.service", ("llm", "8080")),
    ("worker", "vllm.service", ("vllm", "main")),
    ("worker", "worker-vllm.service", ("vllm", "main")),
    ("worker", "worker-vllm-8080.service", ("vllm", "8080")),
    ("worker", "worker@8080.service", ("worker", "8080")),
    ("worker", "a-b-7.scope", ("a-b", "7")),
    ("worker", "a-b-c.scope", ("a-b-c", "main")),
    ("worker", "run-r1a2b.scope", ("run-r1a2b", "main")),
    ("worker", r"a\x2db@c\x2dd.service", ("a-b", "c-d")),
    ("worker", r"a\x2d7.scope", ("a-7", "main")),
    ("worker", r"caf\xc3\xa9@1.service", ("café", "1")),
    ("worker", r"a\x0ab@1.service", ("a\nb", "1")),
    ("worker", 'a"b@1.service', ('a"b', "1")),
    ("worker", "llm@.service", ("llm@", "main")),
    ("worker", "@8080.service", ("@8080", "main")),
    ("worker", "_cgroup@1.service", ("cgroup", "1")),
    ("worker", "_memory.current.service", ("memory.current", "main")),
    ("worker", "worker-.service", ("worker-", "main")),
    ("worker", "worker-a.slice/worker-a-b.slice/worker-a-b@5.service", ("a-b", "5")),
    ("worker", "other.slice/llm@8080.service", ("llm", "8080")),
    # containers
    ("worker", f"worker-llm.slice/docker-{ID}.scope", ("llm", SHORT)),
    ("worker", f"worker-llm.slice/cri-containerd-{ID}.scope", ("llm", SHORT)),
    ("worker", f"worker-llm.slice/{ID}", ("llm", SHORT)),
    ("worker", f"llm/{ID}", ("llm", SHORT)),
    ("worker", f"docker-{ID}.scope", (f"docker-{ID}", "main")),
    # plain directories
    ("rbee", "llm/8080", ("llm", "8080")),
    ("rbee", "llm/a-b", ("llm", "a-b")),
    ("rbee", "_llm/8080", ("_llm", "8080")),
    ("rbee", "a\nb/c\\d", ("a\nb", "c\\d")),
]

NO_WORKERS = [
    ("worker", "llm"),
    ("worker", "worker-llm.slice"),
    ("worker", "worker-llm-8090.slice"),
    ("worker", "worker-llm.slice/other-llm-8090.slice"),
    ("worker", "worker-llm.slice/worker-llm.slice"),
    ("worker", "other.slice/other-8080.slice"),
    ("worker", "worker-llm.slice/8080"),
    ("worker", "a/b/c"),
    ("worker", "dev-sda.device/x"),
    ("worker", "some.socket"),
    ("worker", "a.mount/b"),
    ("worker", "llm/a.timer"),
    ("worker", ID),
]


@pytest.mark.parametrize(("stem", "path", "expected"), ROWS)
def test_workers(stem: str, path: str, expected: tuple[str, str]) -> None:
    assert by_path(tuple(path.split("/")), stem) == Identity(*expected)


@pytest.mark.parametrize(("stem", "path"), NO_WORKERS)
def test_what_is_no_worker(stem: str, path: str) -> None:
    assert by_path(tuple(path.split("/")), stem) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("worker-llm.slice", True),
        ("a.slice/b.slice", True),
        ("llm", True),
        ("llm/8080", False),
        ("a.socket", False),
        ("llm.service", False),
    ],
)
def test_where_workers_may_lie(path: str, expected: bool) -> None:
    assert may_hold_workers(tuple(path.split("/"))) is expected


def test_the_first_pattern_that_matches_the_whole_path_names_the_worker() -> None:
    patterns = (
        re.compile(r"slurm/job_(?P<instance>\d+)/(?P<service>step)"),
        re.compile(r"slurm/(?P<service>[^/]+?)_(?P<instance>\d+)(/(?P<rest>.*))?"),
    )
    assert by_pattern("slurm/job_7/step", patterns) == Identity("step", "7")
    assert by_pattern("slurm/job_7", patterns) == Identity("job", "7")
    assert by_pattern("slurm/job_7x", patterns) is None
    assert by_pattern("x/slurm/job_7", patterns) is None


def test_a_group_that_took_no_part_makes_no_valid_identity() -> None:
    identity = by_pattern("a", (re.compile(r"(?P<service>a)(-(?P<instance>\d+))?"),))
    assert identity == Identity("a", "")
    assert not identity.valid


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(?P<service>", "is not a regular expression"),
        ("(?P<service>a)", "lacks the named group (?P<instance>...)"),
        ("a", "lacks the named group (?P<instance>...) and (?P<service>...)"),
    ],
)
def test_a_bad_pattern_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compile_pattern(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        (r"system\.slice/slurmstepd\.scope/job_(?P<instance>\d+)", "system.slice/slurmstepd.scope"),
        (r"docker/(?P<instance>.*)", "docker"),
        (r"a/b/(?P<instance>c)", "a/b"),
        (r"(?P<service>docker)/(?P<instance>.*)", "docker"),
        (r"a/(?P<service>b\.c)-d/(?P<instance>.*)", "a/b.c-d"),
        (r"a/(?P<instance>(?P<service>job)_\d+)", "a"),
        (r"(?P<service>a/b)?/c", ""),
        (r"(?P<service>a.)/b", ""),
        (r"(?P<service>a\w)/b", ""),
        (r"job_(?P<instance>\d+)", ""),
        (r"a/b*(?P<service>c)", "a"),
        (r"a/?b", ""),
        (r"a/b{2}/c", "a"),
        (r"a/b|c/d", ""),
        (r"a.slice/b", ""),
        (r"(?i)a/b/c", ""),
        (r"(?x)a / b / c", ""),
        (r"a\x2fb/c", ""),
        (r"^a/b", ""),
    ],
)
def test_literal_directory(pattern: str, directory: str) -> None:
    assert literal_directory(re.compile(pattern)) == directory


pieces = st.sampled_from(
    ["a", "b", "/", r"\.", r"\-", r"\@", r"\/", "a*", "b?", "/?", "a{1,2}", "[ab]", "(a|/)", "."]
)


groups = st.sampled_from(
    ["", "(?P<s>a)", r"(?P<s>a\./b)", "(?P<s>a/)*", "(?P<s>a/b)?", "(?P<s>a/b){2}", "(?P<s>a*)"]
)


@given(
    st.tuples(groups, st.lists(pieces, min_size=1, max_size=8).map("".join)).map("".join), st.data()
)
def test_every_match_lies_below_the_literal_directory(text: str, data: st.DataObject) -> None:
    path = data.draw(st.from_regex(text, fullmatch=True))
    directory = literal_directory(re.compile(text))
    assert not directory or path.startswith(f"{directory}/")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("worker.slice", "worker.slice"),
        ("my-team.slice", "my.slice/my-team.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        (r"a\x2db.slice", r"a\x2db.slice"),
        ("cpu-jobs.slice", "_cpu.slice/cpu-jobs.slice"),
        ("_a-b.slice", "__a.slice/__a-b.slice"),
    ],
)
def test_slice_path(name: str, path: str) -> None:
    assert check_slice(name) == name
    assert slice_path(name) == path


@pytest.mark.parametrize(
    "name", ["worker", "", ".slice", "-.slice", "a--b.slice", "-a.slice", "a/b.slice", "a-.slice"]
)
def test_what_is_no_slice_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        check_slice(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("worker.slice/worker-llm.slice/worker-llm@8080.service", "worker-llm@8080.service"),
        ("worker.slice/worker-llm.slice/worker-llm-8090.slice", "worker-llm-8090.slice"),
        ("system.slice/slurmstepd.scope/job_7", "slurmstepd.scope"),
        ("user.slice/user@7.service/a.slice/x.service", "x.service"),
        ("worker.slice/_cgroup.service", "cgroup.service"),
        ("docker/4f", ""),
    ],
)
def test_unit_of(path: str, unit: str) -> None:
    assert unit_of(path) == unit


@given(st.text(max_size=30))
def test_escapes_are_undone(text: str) -> None:
    escaped = "".join(f"\\x{byte:02x}" for byte in text.encode())
    assert unescape(escaped) == text


def test_a_name_without_escapes_stays() -> None:
    assert unescape("a\\b") == "a\\b"
    assert unescape("a\\x2") == "a\\x2"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", True),
        ("", False),
        ("a" * 256, True),
        ("a" * 257, False),
        ("é" * 128, True),
        ("é" * 128 + "a", False),
        (b"a\xff".decode(errors="surrogateescape"), False),
        (unescape(r"a\xff"), False),
        ('a"\\\n', True),
    ],
)
def test_label_values(value: str, expected: bool) -> None:
    assert is_label_value(value) is expected
    assert Identity(value, "main").valid is expected
    assert Identity("llm", value).valid is expected
