"""What workers.yaml means: from the file to what a launcher is given."""

from pathlib import Path

import pytest
from tests.unit.spec_support import read

from worker_sidecar.errors import InputError, NotFoundError
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.ownership import Ownership
from worker_sidecar.spec import EMPTY, Declared, Probe

GIB = 1024**3


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


EVERYTHING = """\
x-env: &env {LANG: C, COST: "$5 ${NAME}"}
slice: my-team.slice
owners: {pact.slice: pact, extra.slice: worker-sidecar}
total: {memory: 64G, cpus: 0-15}
api: {free_commands: true}
services:
  llm:
    command: [vllm, serve, "{model}", --port, "{port}", "--ctx={ctx}", "--half={half}", "{gpu}"]
    user: nobody
    directory: /srv/{service}/{instance}
    env: {<<: *env, WHO: "{service}@{instance}", PLAIN: 08080, ANSWER: yes}
    limits: {memory: 8G, cpu: 200%, cpus: 0-3, io: [{path: /, read_bandwidth: 10M}]}
    total: {memory: 20G, tasks: 4096}
    restart: on-failure
    grace: 1.5min
    delegate: true
    oom_score_adjust: -5
    gpu: 0
    priority: low
    health: {http: "http://127.0.0.1:{port}/health", interval: 5s, timeout: 500ms}
    parameters:
      ctx: {type: integer, default: 4096, min: 1, max: 100000}
      half: {type: boolean, default: true}
    instances:
      8080: {model: llama}
      b.1:
        port: 9000
        model: qwen
        gpu: [GPU-0a, GPU-0b]
        priority: high
        parameters: {ctx: 1000, half: false}
        env: {ANSWER: no, MORE: "{ctx}"}
        limits: {memory: 4096M, io_weight: 7, swap: 0}
  cache:
    image: redis:7.4
    volumes: ["/srv/{service}/{port}:/data", /etc/redis:/etc/redis:ro]
    shm_size: 512M
    user: 999
    restart: always
    health: {tcp: "127.0.0.1:{port}"}
    instances: {6379: }
"""


def test_everything_at_once(tmp_path: Path) -> None:
    config = read(tmp_path, EVERYTHING)
    host = Limits(memory=64 * GIB, cpus="0-15")
    first = WorkerSpec(
        service="llm",
        instance="8080",
        argv=("vllm", "serve", "llama", "--port", "8080", "--ctx=4096", "--half=true", "0"),
        env={
            "LANG": "C",
            "COST": "$5 ${NAME}",
            "WHO": "llm@8080",
            "PLAIN": "08080",
            "ANSWER": "yes",
        },
        limits=Limits(
            memory=8 * GIB,
            cpu=2.0,
            cpus="0-3",
            cpu_weight=25,
            io_weight=25,
            io=(IoLimit("/", read_bandwidth=10_000_000),),
        ),
        metadata={"model": "llama", "port": "8080"},
        user="nobody",
        directory="/srv/llm/8080",
        restart=Restart.ON_FAILURE,
        grace=90.0,
        delegate=True,
        oom_score_adjust=-5,
        gpu="0",
        service_limits=Limits(memory=20 * GIB, tasks=4096),
        host_limits=host,
    )
    second = WorkerSpec(
        service="llm",
        instance="b.1",
        argv=(
            *("vllm", "serve", "qwen", "--port", "9000", "--ctx=1000", "--half=false"),
            "GPU-0a,GPU-0b",
        ),
        env={**first.env, "WHO": "llm@b.1", "ANSWER": "no", "MORE": "1000"},
        limits=Limits(
            memory=4 * GIB,
            swap=0,
            cpu=2.0,
            cpus="0-3",
            cpu_weight=400,
            io_weight=7,
            io=(IoLimit("/", read_bandwidth=10_000_000),),
        ),
        metadata={"model": "qwen", "port": "9000"},
        user="nobody",
        directory="/srv/llm/b.1",
        restart=Restart.ON_FAILURE,
        grace=90.0,
        delegate=True,
        oom_score_adjust=-5,
        gpu="GPU-0a,GPU-0b",
        service_limits=first.service_limits,
        host_limits=host,
    )
    third = WorkerSpec(
        service="cache",
        instance="6379",
        argv=(),
        image="redis:7.4",
        volumes=("/srv/cache/6379:/data", "/etc/redis:/etc/redis:ro"),
        shm_size=512 * 1024**2,
        metadata={"port": "6379"},
        user="999",
        restart=Restart.ALWAYS,
        service_limits=Limits(),
        host_limits=host,
    )
    assert config.workers == (
        Declared(first, Probe("http", "http://127.0.0.1:8080/health", (), 5.0, 0.5)),
        Declared(second, Probe("http", "http://127.0.0.1:9000/health", (), 5.0, 0.5)),
        Declared(third, Probe("tcp", "127.0.0.1:6379", (), 10.0, 2.0)),
    )
    assert config.path == str(tmp_path / "workers.yaml")
    assert config.slice_name == "my-team.slice"
    assert config.ownership == Ownership(("my-team.slice", "extra.slice"), {"pact.slice": "pact"})
    assert config.host_limits == host
    assert config.free_commands
    assert list(config.services) == ["llm", "cache"]
    assert config.services["llm"].total == Limits(memory=20 * GIB, tasks=4096)
    totals = [config.total(name) for name in ("llm", "cache", "nosuch")]
    assert totals == [first.service_limits, Limits(), None]


def test_find(tmp_path: Path) -> None:
    config = read(tmp_path, EVERYTHING)
    found = config.find("llm", "b.1")
    assert found is config.workers[1]
    assert config.find("llm", "9000") is None and config.find("nosuch", "8080") is None


def test_a_small_file_has_safe_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, "services: {a: {command: [x], user: root, instances: {b: }}}")
    none = Limits()
    only = WorkerSpec("a", "b", ("x",), user="root", service_limits=none, host_limits=none)
    assert config.workers == (Declared(only),)
    assert (config.slice_name, config.free_commands) == ("worker.slice", False)
    assert config.ownership == Ownership(("worker.slice",))


@pytest.mark.parametrize("text", ["{}", "services:", "services: {}", "\ufeffslice: worker.slice"])
def test_a_file_may_declare_nothing(tmp_path: Path, text: str) -> None:
    config = read(tmp_path, text)
    assert config.workers == () and config.services == {}


def test_a_host_without_a_file() -> None:
    EMPTY.ownership.check("worker.slice")
    assert EMPTY.path is None and EMPTY.find("a", "b") is None
    assert EMPTY.host_limits is None and EMPTY.total("a") is None
    with pytest.raises(NotFoundError):
        EMPTY.request("a", "b", {})


def test_a_command_probe(tmp_path: Path) -> None:
    text = """\
services:
  a:
    command: [x]
    user: root
    health: {command: [curl, "http://[::1]:{port}"]}
    instances: {1: }
"""
    probe = Probe("command", "curl", ("curl", "http://[::1]:1"), 10.0, 2.0)
    assert read(tmp_path, text).workers[0].probe == probe


@pytest.mark.parametrize(
    ("priority", "limits", "expected"),
    [
        ("low", "{}", (25, 25)),
        ("normal", "{}", (None, None)),
        ("high", "{}", (400, 400)),
        ("high", "{cpu_weight: 1}", (1, 400)),
    ],
)
def test_priority_is_weights(
    tmp_path: Path, priority: str, limits: str, expected: tuple[int | None, int | None]
) -> None:
    text = (
        f"services: {{a: {{command: [x], user: root, priority: {priority}, limits: {limits},"
        " instances: {b: }}}"
    )
    limits_of_b = read(tmp_path, text).workers[0].spec.limits
    assert (limits_of_b.cpu_weight, limits_of_b.io_weight) == expected


@pytest.mark.parametrize(
    ("text", "restart"),
    [
        ("no", Restart.NO),
        ("false", Restart.NO),
        ("on-failure", Restart.ON_FAILURE),
        ("always", Restart.ALWAYS),
    ],
)
def test_restart_policies(tmp_path: Path, text: str, restart: Restart) -> None:
    text = f"services: {{a: {{command: [x], user: root, restart: {text}, instances: {{b: }}}}}}"
    assert read(tmp_path, text).workers[0].spec.restart is restart


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), ("0.5", 0.5), ("10s", 10), ("500ms", 0.5), ("2 min", 120), ("1h", 3600)],
)
def test_times(tmp_path: Path, text: str, seconds: float) -> None:
    text = f"services: {{a: {{command: [x], user: root, grace: {text}, instances: {{b: }}}}}}"
    assert read(tmp_path, text).workers[0].spec.grace == seconds


def test_a_sidecar_of_a_user_starts_workers_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    text = "services: {a: {command: [x], instances: {b: }}, c: {command: [x], user: %s}}"
    config = read(tmp_path, text % "nobody")
    assert config.workers[0].spec.user is None
    with pytest.raises(InputError, match="of uid 65534 cannot start workers as root; leave user"):
        read(tmp_path, text % "root")


REQUESTS = """\
services:
  llm:
    command: [serve, "{model}", "{port}", "{ctx}", "{flag}"]
    user: root
    gpu: auto
    model: base
    limits: {memory: 1G}
    total: {memory: 8G}
    parameters:
      ctx: {type: integer, default: 10, min: 5, max: 20}
      flag: {type: boolean, default: false}
      model: {choices: [base, large]}
      ratio: {type: number, default: 0.5, max: 1}
      name: {pattern: "[a-z]+", default: abc}
      size: {type: integer, choices: [1, 2], default: 1}
    instances:
      8080: {model: large, parameters: {ctx: 7}, limits: {memory: 2G}}
  bare: {command: [x], user: root}
  ported:
    command: [x, "{port}"]
    user: root
    parameters: {port: {type: integer, min: 1024}}
"""


def test_a_request_for_nothing_else_is_the_declared_worker(tmp_path: Path) -> None:
    config = read(tmp_path, REQUESTS)
    assert config.request("llm", "8080", {}) == config.workers[0]
    assert config.workers[0].spec.argv == ("serve", "large", "8080", "7", "false")


def test_requests_choose_over_the_instance_over_the_service(tmp_path: Path) -> None:
    config = read(tmp_path, REQUESTS)
    changed = config.request("llm", "8080", {"ctx": 20, "flag": True}).spec
    assert changed.argv == ("serve", "large", "8080", "20", "true")
    assert changed.limits.memory == 2 * GIB
    new = config.request("llm", "9999", {"model": "large"}).spec
    assert new.argv == ("serve", "large", "9999", "10", "false")
    assert new.metadata == {"model": "large", "port": "9999"}
    assert (new.limits.memory, new.service_limits) == (GIB, Limits(memory=8 * GIB))
    assert (new.gpu, new.user) == ("auto", "root")
    assert config.request("llm", "9999", {}).spec.metadata["model"] == "base"
    for bound in (5, 20):
        assert config.request("llm", "1", {"ctx": bound}).spec.argv[3] == str(bound)
    assert config.request("ported", "a", {"port": 2000}).spec.metadata == {"port": "2000"}


@pytest.mark.parametrize(
    ("service", "instance", "parameters", "message"),
    [
        ("llm", "1", {"ctx": "7"}, "parameter ctx of llm: must be an integer"),
        ("llm", "1", {"ctx": True}, "parameter ctx of llm: must be an integer"),
        ("llm", "1", {"ctx": 7.0}, "parameter ctx of llm: must be an integer"),
        ("llm", "1", {"ctx": None}, "parameter ctx of llm: must be an integer"),
        ("llm", "1", {"ctx": 4}, "parameter ctx of llm: 4 is below 5"),
        ("llm", "1", {"ctx": 21}, "parameter ctx of llm: 21 is above 20"),
        ("llm", "1", {"ctx": 10**400}, "parameter ctx of llm: must be an integer"),
        ("llm", "1", {"flag": 1}, "parameter flag of llm: must be true or false"),
        ("llm", "1", {"flag": "true"}, "parameter flag of llm: must be true or false"),
        ("llm", "1", {"model": "small"}, "parameter model of llm: 'small' is not one of base, la"),
        ("llm", "1", {"model": ["base"]}, "parameter model of llm: must be a text"),
        ("llm", "1", {"ratio": float("nan")}, "parameter ratio of llm: must be a number"),
        ("llm", "1", {"ratio": 1.5}, "parameter ratio of llm: 1.5 is above 1"),
        ("llm", "1", {"ratio": False}, "parameter ratio of llm: must be a number"),
        ("llm", "1", {"name": "A"}, "parameter name of llm: 'A' does not match"),
        ("llm", "1", {"name": "abC"}, "parameter name of llm: 'abC' does not match '[a-z]+'"),
        ("llm", "1", {"name": "abc\n"}, "contains a control character"),
        ("llm", "1", {"name": "a\0"}, "contains a control character"),
        ("llm", "1", {"name": "\ud800"}, "half a character"),
        ("llm", "1", {"name": "a" * 4097}, "is longer than 4096 characters"),
        ("llm", "1", {"size": 3}, "parameter size of llm: '3' is not one of 1, 2"),
        ("llm", "1", {"nosuch": 1}, "service llm has no parameter 'nosuch'; it has ctx, flag"),
        ("bare", "1", {"x": 1}, "service bare has no parameter 'x'; it has none"),
        ("llm", "a", {}, "llm/a has no port for command.2: name the instance by its port"),
        ("llm", "a-b", {}, "instance 'a-b' is no name"),
        ("llm", "..", {}, "instance '..' is no name"),
        ("LLM", "1", {}, "service 'LLM' is no name"),
        ("ported", "a", {}, "ported/a needs the parameter port, which has no default"),
        ("ported", "80", {}, "parameter port of ported: 80 is below 1024"),
        ("ported", "a", {"port": 80}, "parameter port of ported: 80 is below 1024"),
        ("ported", "a", {"port": 70000}, "ported/a: '70000' is no port"),
        ("ported", "8080", {"port": 9090}, "ported/8080 is on port 8080 by its name and cannot"),
    ],
)
def test_requests_that_cannot_be(
    tmp_path: Path, service: str, instance: str, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, REQUESTS).request(service, instance, parameters)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_service_that_is_not_declared_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no service 'other'; declared are: llm, bare, ported"):
        read(tmp_path, REQUESTS).request("other", "1", {})


def test_texts_of_a_command_line_get_their_types(tmp_path: Path) -> None:
    service = read(tmp_path, REQUESTS).services["llm"]
    assert service.typed({"ctx": "7", "flag": "true", "ratio": "0.25", "name": "x"}) == {
        "ctx": 7,
        "flag": True,
        "ratio": 0.25,
        "name": "x",
    }
    for texts in (
        {"ctx": "7.5"},
        {"ctx": "1_0"},
        {"flag": "yes"},
        {"ratio": "nan"},
        {"nosuch": ""},
    ):
        with pytest.raises(InputError):
            service.typed(texts)


def test_parameters_describe_themselves_in_json_schema(tmp_path: Path) -> None:
    parameters = read(tmp_path, REQUESTS).services["llm"].parameters
    assert parameters["ctx"].schema_of_values() == {
        "type": "integer",
        "default": 10,
        "minimum": 5,
        "maximum": 20,
    }
    assert parameters["model"].schema_of_values() == {"type": "string", "enum": ["base", "large"]}
    assert parameters["name"].schema_of_values() == {
        "type": "string",
        "default": "abc",
        "pattern": "^(?:[a-z]+)$",
    }
