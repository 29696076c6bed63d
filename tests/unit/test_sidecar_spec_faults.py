"""What is said of a workers.yaml that cannot be used: file, line, key, what is wrong."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.spec_support import faults, refusal

from worker_sidecar.errors import InputError, RefusedError, SidecarError
from worker_sidecar.launch.limits import cpu_list
from worker_sidecar.spec import groups, load
from worker_sidecar.spec.model import File


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


def service(text: str) -> str:
    """A file with one sound service, and `text` as the fourth line, in the service."""
    return f"services:\n  a:\n    {{command: [x], user: root,\n    {text}}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; it needs at least a key services"),
        ("# nothing\n", "is empty; it needs at least a key services"),
        ("- a", "1: the file must be a mapping of keys to values, such as services"),
        ("text", "1: the file must be a mapping of keys to values, such as services"),
        (b"slice: a\n# \xff", "2: is not UTF-8; save it so"),
        ("\n" * (1 << 20) + "x", "is larger than 1 MiB; is it the right file?"),
        ("x" * (10 << 20), "is larger than 1 MiB; is it the right file?"),
        ("a: [1", "1: not YAML: did not find expected ',' or ']'"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert faults(tmp_path, text) == [said]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (f"{tmp_path}/none.yaml", "No such file or directory"),
        (str(tmp_path), "Is a directory"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_endless_files_are_not_read_to_their_end() -> None:
    with pytest.raises(InputError, match="/dev/zero: is larger than 1 MiB"):
        load("/dev/zero")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("servces: {}", "1: servces: is no key here; did you mean services?"),
        ("foo: 1", "1: foo: is no key here; there are api, owners, services, slice, total"),
        ("slice: a.service", "1: slice: 'a.service' is no slice; it must look like worker.slice"),
        ("slice: system.slice", "1: slice: system.slice belongs to systemd; worker-sidecar writes"),
        ("owners: {a: b}", "1: owners.a: 'a' is no slice; it must look like worker.slice"),
        ("owners: {a.slice: ' '}", "1: owners.a.slice: ' ' is no name; give a word, as in lattice"),
        ("services: [a]", "1: services: must be a mapping of keys to values"),
        ("services:\n a: 5", "2: services.a: must be a mapping of keys to values"),
        ("services:\n a:", "2: services.a: has no command; give one, or an image"),
        (
            "services:\n a: {command: [x], volumes: [/a:/b]}",
            "2: services.a: has volumes, which only a container can have: give an image",
        ),
        (
            "services:\n a: {command: [x], shm_size: 1G}",
            "2: services.a: has shm_size, which only a container can have: give an image",
        ),
        ("services:\n a-b: {image: x}", "2: services.a-b: service 'a-b' is no name: 1 to 64 of"),
        ("total:\n  memory: 1", "2: total.memory: limit memory is 1; it goes from 4096 to"),
        ("api: {free_commands: yes}", "1: api.free_commands: 'yes' is neither true nor false"),
        (
            "api: {free_command: true}",
            "1: api.free_command: is no key here; did you mean free_commands?",
        ),
    ],
)
def test_faults_at_the_top(tmp_path: Path, text: str, said: str) -> None:
    (line,) = faults(tmp_path, text)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command: x", "services.a.command: must be a list of words, as in"),
        ("command: []", "services.a.command: must be a list of words, as in"),
        ("command: [[x]]", "services.a.command.0: must be a single value, not a list"),
        ("command: [~]", 'services.a.command.0: has no value; give one, or ""'),
        ('command: ["a\\0b"]', "services.a.command.0: contains a NUL"),
        ("user: ''", "services.a.user: '' is no user; give a name or a uid"),
        ("user: nosuchuser", "services.a.user: there is no user 'nosuchuser' on this host"),
        ("user: 4294967295", "services.a.user: '4294967295' is no user"),
        ("user: -1", "services.a.user: '-1' is no user"),
        ("image: -x", "services.a.image: '-x' is no image"),
        ("image: 'a b'", "services.a.image: 'a b' is no image"),
        ("image: i, volumes: /a:/b", "services.a.volumes: must be a list"),
        ("image: i, volumes: [a:/b]", "services.a.volumes.0: volume 'a:/b': 'a' is no plain abs"),
        ("image: i, volumes: ['/a{z}:/b']", "services.a.volumes.0: {z} is no token here; there"),
        ("image: i, shm_size: 1 GB", "services.a.shm_size: shm_size '1 GB': give bytes, as in"),
        ("image: i, shm_size: 0", "services.a.shm_size: shm_size is 0; it goes from 4096"),
        (
            "image: i, volumes: [/a:/b, '/c:/{instance}'], instances: {b: }",
            "services.a.instances.b: two volumes are mounted on /b; keep one",
        ),
        ("directory: x, instances: {b: }", "services.a.instances.b: the working directory 'x' is"),
        ("env: {1A: x}", "services.a.env.1A: '1A' is no name; give a letter or _"),
        ("env: {A: }", 'services.a.env.A: has no value; give one, or "" for the empty text'),
        ("env: {A: [b]}", "services.a.env.A: must be a single value, not a list or a mapping"),
        ("env: [A=b]", "services.a.env: must be a mapping of keys to values"),
        ("secrets: {a/b: /x}", "services.a.secrets.a/b: 'a/b' is no name"),
        ("secrets: {a: x}", "services.a.secrets.a: 'x' is no absolute path"),
        ("restart: sometimes", "services.a.restart: 'sometimes' is no restart policy; give no,"),
        ("grace: soon", "services.a.grace: 'soon' is no time; give seconds, or as in 500ms"),
        ("grace: -1", "services.a.grace: '-1' is no time"),
        ("grace: nan", "services.a.grace: 'nan' is no time"),
        ("grace: 200h", "services.a.grace: '200h' is longer than a week"),
        ("delegate: maybe", "services.a.delegate: 'maybe' is neither true nor false"),
        ("oom_score_adjust: 1001", "services.a.oom_score_adjust: 1001 is not from -1000 to 1000"),
        ("oom_score_adjust: 1.5", "services.a.oom_score_adjust: '1.5' is no whole number"),
        ("gpu: first", "services.a.gpu: gpu 'first' is none; give auto, a number such as 0"),
        ("gpu: [0, 0]", "services.a.gpu: gpu '0,0' names one GPU twice"),
        ("gpu: -1", "services.a.gpu: gpu '-1' is none"),
        ("priority: urgent", "services.a.priority: 'urgent' is no priority; give low, normal or"),
        ("model: ''", "services.a.model: must be 1 to 256 bytes"),
        (f"model: {'é' * 129}", "services.a.model: must be 1 to 256 bytes"),
        ("limits: {memory: 8 GB}", "services.a.limits.memory: limit memory '8 GB': give bytes"),
        ("limits: {memory: -1}", "services.a.limits.memory: limit memory '-1': give bytes"),
        (f"limits: {{memory: {'9' * 400}}}", "services.a.limits.memory: limit memory"),
        ("limits: {memory: 999999P}", "services.a.limits.memory: limit memory is"),
        ("limits: {memroy: 1G}", "services.a.limits.memroy: is no key here; did you mean memory?"),
        ("limits: {cpu: 0}", "services.a.limits.cpu: limit cpu is 0.0; it goes from 0.01"),
        ("limits: {cpu: inf}", "services.a.limits.cpu: limit cpu 'inf': give cores"),
        ("limits: {cpus: 3-1}", "services.a.limits.cpus: limit cpus '3-1': 3-1 is no range"),
        (f"limits: {{cpus: 0-{'9' * 5000}}}", "services.a.limits.cpus: limit cpus '0-99"),
        ("limits: {cpu_weight: 0}", "services.a.limits.cpu_weight: limit cpu_weight is 0"),
        ("limits: {tasks: 1_0}", "services.a.limits.tasks: '1_0' is no whole number"),
        ("limits: {io: [{}]}", "services.a.limits.io.0.path: is missing"),
        ("limits: {io: {path: /}}", "services.a.limits.io: must be a list"),
        ("limits: {io: [{path: x, read_iops: 1}]}", "services.a.limits.io.0.path: 'x' is no abs"),
        ("limits: {io: [{path: /}]}", "services.a.limits.io.0: limits nothing; give read_bandw"),
        ("limits: {io: [{path: /, read_iops: 0}]}", "services.a.limits.io.0.read_iops: '0' must"),
        (
            "limits: {io: [{path: /, read_iops: 1}, {path: /, write_iops: 1}]}",
            "services.a.limits: io has one path twice",
        ),
        ("health: {}", "services.a.health: give one of http, tcp and command"),
        ("health: {tcp: a, http: b}", "services.a.health: give one of http, tcp and command"),
        ("health: {tcp: a, timeout: 1m}", "services.a.health: timeout 60 s is longer than interv"),
        ("health: {tcp: a, interval: 0}", "services.a.health.interval: '0' is too short"),
        ("health: {tcp: a}, instances: {b: }", "services.a.instances.b: health.tcp 'a' is no add"),
        ("health: {tcp: 'a:0'}, instances: {b: }", "services.a.instances.b: health.tcp 'a:0' is"),
        ("health: {http: a}, instances: {b: }", "services.a.instances.b: health.http 'a' is no U"),
        (
            "health: {http: 'http://h:99999/'}, instances: {b: }",
            "services.a.instances.b: health.http 'http://h:99999/' is no URL",
        ),
        ("instances: [8080]", "services.a.instances: must be a mapping of keys to values"),
        ("instances: {a-b: }", "services.a.instances.a-b: instance 'a-b' is no name"),
        ("instances: {cgroup.procs: }", "services.a.instances.cgroup.procs: instance 'cgroup"),
        ('instances: {"a\\n": }', "services.a.instances.a\\n: instance 'a\\n' is no name"),
        ("instances: {..: }", "services.a.instances...: instance '..' is no name"),
        (f"instances: {{{'a' * 300}: }}", f"services.a.instances.{'a' * 80}…: instance 'aaa"),
        ("instances: {b: {port: 0}}", "services.a.instances.b.port: '0' is no port; it goes from"),
        ("instances: {b: {port: 08080}}", "services.a.instances.b.port: '08080' is no port"),
        ("instances: {b: {prot: 1}}", "services.a.instances.b.prot: is no key here; did you mean"),
        (
            "instances: {8000: {port: 81}}",
            "services.a.instances.8000: a/8000 is on port 8000 by its name",
        ),
        ("instances: {b: {parameters: {x: 1}}}", "services.a.instances.b.parameters.x: is no par"),
        ("parameters: {X: {}}", "services.a.parameters.X: 'X' is no name; give a letter a-z"),
        ("parameters: {x: {type: int}}", "services.a.parameters.x.type: 'int' is no type; there"),
        ("parameters: {x: {pattern: '('}}", "services.a.parameters.x.pattern: '(' is no regular"),
        ("parameters: {x: {choices: []}}", "services.a.parameters.x.choices: must be a list of"),
        ("parameters: {x: {min: 1}}", "services.a.parameters.x: min and max are for integers"),
        (
            "parameters: {x: {type: integer, pattern: a}}",
            "services.a.parameters.x: pattern is for strings, not for type integer",
        ),
        (
            "parameters: {x: {type: integer, default: many}}",
            "services.a.parameters.x.default: 'many' is no whole number",
        ),
        (
            "parameters: {x: {type: integer, default: 5, max: 4}}",
            "services.a.parameters.x: the default 5 is above 4",
        ),
        (
            "parameters: {x: {type: number, min: 2, max: 1}}",
            "services.a.parameters.x: min 2 is above max 1",
        ),
        ("parameters: {gpu: {}}", "services.a.parameters.gpu: is a token's name already"),
        ("parameters: {port: {}}", "services.a.parameters.port: must have type integer"),
        (
            "parameters: {x: {}}, instances: {b: }",
            "services.a.instances.b: a/b needs the parameter x, which has no default",
        ),
        (
            "parameters: {model: {}}, instances: {b: {model: m, parameters: {model: n}}}",
            "services.a.instances.b: a/b has its model twice, as a parameter too; keep one",
        ),
        (
            "parameters: {x: {type: integer, default: 1}}, instances: {b: {parameters: {x: y}}}",
            "services.a.instances.b: parameter x of a: 'y' is no whole number",
        ),
    ],
)
def test_faults_of_a_service(tmp_path: Path, text: str, said: str) -> None:
    written = service(text)
    if text.startswith(("command:", "user:")):
        key = text.partition(":")[0]
        written = written.replace({"command": "command: [x], ", "user": "user: root,"}[key], "")
    (line,) = faults(tmp_path, written)
    assert line.startswith(f"4: {said}")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{modle}",
            "{modle} is no token here; there are {service}, {instance}, {port}, {",
        ),
        ("{port}", "a/b has no port for command.1: name the instance by its port, or give it a"),
        ("{model}", "a/b has no model for command.1: give the instance a model"),
        ("{gpu}", "a/b has no gpu for command.1: give the instance a gpu by number or UUID"),
    ],
)
def test_tokens_that_cannot_be_replaced(tmp_path: Path, template: str, said: str) -> None:
    text = f"""\
services:
  a:
    user: root
    gpu: auto
    command:
      - x
      - "{template}"
    instances:
      b:
"""
    (line,) = faults(tmp_path, text)
    place = "7: services.a.command.1" if "modle" in template else "9: services.a.instances.b"
    assert line.startswith(f"{place}: {said}")


def test_tokens_are_looked_for_wherever_they_are_replaced(tmp_path: Path) -> None:
    text = """\
services:
  a:
    command: [x]
    image: "i:{t1}"
    user: root
    directory: "/{t2}"
    env: {A: "{t3}"}
    health: {http: "http://{t4}"}
    instances:
      b: {env: {B: "{t5}"}}
  c: {command: [x], user: root, health: {command: ["{t6}"]}}
  d: {command: [x], user: root, health: {tcp: "{t7}"}}
"""
    assert [line.partition(" is no token")[0] for line in faults(tmp_path, text)] == [
        "4: services.a.image: {t1}",
        "6: services.a.directory: {t2}",
        "7: services.a.env.A: {t3}",
        "8: services.a.health.http: {t4}",
        "10: services.a.instances.b.env.B: {t5}",
        "11: services.c.health.command.0: {t6}",
        "12: services.d.health.tcp: {t7}",
    ]


def test_all_faults_are_told_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = """\
slcie: a.slice
services:
  a:
    command: x
    limits: {cpu: many, memory: much}
  a: {}
  b:
    image: y
    user: root
    grace: long
"""
    assert [line[:40] for line in faults(tmp_path, text)] == [
        "1: slcie: is no key here; did you mean s",
        "4: services.a.command: must be a list of",
        "5: services.a.limits.cpu: limit cpu 'man",
        "5: services.a.limits.memory: limit memor",
        "6: services.a: is there twice, first in ",
        "10: services.b.grace: 'long' is no time;",
    ]


def test_of_many_faults_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    lines = faults(tmp_path, "".join(f"k{number}:\n" for number in range(100)))
    assert len(lines) == 21
    assert lines[0].startswith("1: k0: ") and lines[19].startswith("20: k19: ")
    assert lines[20] == "and 80 more"


def test_a_user_has_to_be_given_to_the_sidecar_of_root(tmp_path: Path) -> None:
    said = "1: services.a: has no user; give the one its workers run as (user: root if it has to be"
    for start in ("command: [x]", "image: x"):
        (line,) = faults(tmp_path, f"services: {{a: {{{start}}}}}")
        assert line.startswith(said)


def test_a_file_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text("services: {}\n")
    path.chmod(0o666)
    with pytest.raises(RefusedError, match=f"can be written by everybody: chmod o-w {path}"):
        load(str(path))
    path.chmod(0o664)
    load(str(path))


def test_small_numbers_count_jobs_and_are_no_ports(tmp_path: Path) -> None:
    text = """\
services:
  train: {command: [x, "{port}"], user: root, instances: {1: , 2: {port: 9001}}}
  eval: {command: [x], user: root, instances: {1: , 80: }}
"""
    path = tmp_path / "workers.yaml"
    path.write_text(text)
    specs = {declared.spec.name: declared.spec for declared in load(str(path)).workers}
    assert [name for name, spec in specs.items() if "port" in spec.metadata] == ["train/2"]
    assert specs["train/2"].metadata["port"] == "9001"
    assert [spec.argv[1] for spec in specs.values() if len(spec.argv) > 1] == ["1", "9001"]


def test_two_workers_cannot_have_one_port(tmp_path: Path) -> None:
    text = """\
services:
  a: {command: [x], user: root, instances: {8080: }}
  b:
    command: [x]
    user: root
    instances:
      8081:
      c: {port: 8081}
      d: {port: 8080}
"""
    assert faults(tmp_path, text) == [
        "8: services.b.instances.c: port 8081 is b/8081's already; give each its own",
        "9: services.b.instances.d: port 8080 is a/8080's already; give each its own",
    ]


def test_slices_below_ours_that_are_somebody_elses(tmp_path: Path) -> None:
    text = "owners: {worker-a.slice: lattice}\nservices:\n  a: {command: [x], user: root}\n"
    error = refusal(tmp_path, text)
    assert isinstance(error, RefusedError)
    assert ":3: services.a: worker-a.slice belongs to lattice;" in str(error)


GROUPS = """\
total:
  memory: 10G
  cpus: 0-3
services:
  a:
    command: [x]
    user: root
    total: {memory: 7G, cpus: 0-2}
    limits: {memory: 3G}
    instances:
      x: {limits: {cpus: 1-3}}
      y:
      z: {limits: {memory: 1025M}}
  b:
    command: [x]
    user: root
    limits: {memory: 2G, cpus: 3-5}
    instances: {x: , y: }
  c:
    command: [x]
    user: root
    total: {cpus: "7", memory: 1G}
    limits: {memory: 2G}
"""


def test_the_parts_must_fit_the_whole(tmp_path: Path) -> None:
    fit = "; raise it, or lower theirs"
    assert faults(tmp_path, GROUPS) == [
        f"2: total.memory: the services may take 12G, more than these 10G{fit}",
        f"8: services.a.total.memory: the instances may take 7169M, more than these 7G{fit}",
        "11: services.a.instances.x.limits.cpus: CPU 3 is not among the service's total (0-2)",
        "17: services.b.limits.cpus: CPU 4-5 is not among the host's total (0-3)",
        f"22: services.c.total.memory: the instances may take 2G, more than these 1G{fit}",
        "22: services.c.total.cpus: CPU 7 is not among the host's total (0-3)",
    ]


@given(
    whole=st.sets(st.integers(0, 9), min_size=1),
    parts=st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=3),
)
def test_cpus_fit_when_they_are_a_subset(whole: set[int], parts: list[set[int]]) -> None:
    file = File.model_validate(
        {
            "services": {
                "a": {
                    "command": ["x"],
                    "total": {"cpus": cpu_list(whole)},
                    "instances": {
                        f"i{place}": {"limits": {"cpus": cpu_list(part)}}
                        for place, part in enumerate(parts)
                    },
                }
            }
        }
    )
    outside = [problem.key[3] for problem in groups.examine(file)]
    assert outside == [f"i{place}" for place, part in enumerate(parts) if not part <= whole]


@given(
    total=st.integers(4096, 10**6), parts=st.lists(st.integers(4096, 10**6), min_size=1, max_size=4)
)
def test_memory_fits_when_its_sum_does(total: int, parts: list[int]) -> None:
    instances = {f"i{place}": {"limits": {"memory": str(part)}} for place, part in enumerate(parts)}
    entry = {"command": ["x"], "total": {"memory": str(total)}, "instances": instances}
    file = File.model_validate({"services": {"a": entry}})
    assert bool(list(groups.examine(file))) == (sum(parts) > total)


_LIMITS = [{"memory": "1G", "cpus": "0-1"}, {"memory": "8G", "cpus": "1-3"}, {"cpu": "x"}, "x"]
_PLAUSIBLE: Mapping[str, Sequence[object]] = {
    "image": ["i", "i:{x}", "{model}"],
    "directory": ["/d/{instance}", "d"],
    "env": [{"A": "{port}"}, {"A": None}, {"A": "${port}"}, []],
    "model": ["m", ""],
    "secrets": [{"s": "/etc/passwd"}, {"s": "/nosuch"}, {"/": "/"}],
    "secret_env": ["/etc/passwd", "/"],
    "limits": _LIMITS,
    "total": _LIMITS,
    "restart": ["no", "x"],
    "grace": ["1s", "x"],
    "gpu": ["auto", ["0", "1"], "x"],
    "priority": ["low", "x"],
    "health": [{"http": "http://a:{port}"}, {"tcp": "a:{x}"}, {"command": ["{gpu}"]}, {}],
    "parameters": [
        {"x": {"type": "integer"}},
        {"x": {"default": "{port}"}},
        {"x": "y"},
        {"port": {}},
        {"port": {"type": "integer", "default": "1"}},
        {"model": {"choices": ["m"]}},
    ],
    "instances": [
        {"a": None},
        {"8080": None},
        {"a": {"port": "8080", "model": "m"}},
        {"a": {"port": "x"}},
        {"a": {"parameters": {"x": "1"}}},
        {"a": {"limits": _LIMITS[1]}},
    ],
}
_SERVICES = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from(values) for name, values in _PLAUSIBLE.items()}
    | {
        "command": st.sampled_from([["x"], ["{port}", "{x}"], "x", ["{y}"]]),
        "user": st.sampled_from(["root", "nobody", "nosuch", "61001"]),
    },
)
_FILES = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(["a", "b", "A"]), _SERVICES, max_size=2)},
    optional={
        "total": st.sampled_from(_LIMITS),
        "owners": st.sampled_from([{"worker-a.slice": "x"}, {"worker.slice": "x"}, {"a": "b"}]),
        "slice": st.sampled_from(["a.slice", "system.slice", "a"]),
    },
)


@given(
    _FILES.map(yaml.safe_dump)
    | st.text()
    | st.binary().map(lambda content: content.decode("latin-1"))
)
def test_nothing_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        load(os.fspath(path))
    except SidecarError as error:
        for line in str(error).split("\n"):
            assert line.startswith((f"{path}:", "and "))
