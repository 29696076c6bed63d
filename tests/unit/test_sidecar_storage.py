"""Which volumes and sizes of /dev/shm a container may have, also where a request chose a part."""

from pathlib import Path

import pytest
from tests.unit.spec_support import read

from worker_sidecar.errors import InputError
from worker_sidecar.launch.storage import Volume, overlap, parse_shm_size, parse_volume


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/srv/a b:/c.d/..e:ro", Volume("/srv/a b", "/c.d/..e", read_only=True)),
        ("/:/host:ro", Volume("/", "/host", read_only=True)),
        ("/ä,b:/c", Volume("/ä,b", "/c")),
    ],
)
def test_volumes(text: str, volume: Volume) -> None:
    assert parse_volume(text) == volume


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give HOST:CONTAINER"),
        ("/a", "give HOST:CONTAINER"),
        ("/a:/b:rw", "give HOST:CONTAINER"),
        ("/a:/b:", "give HOST:CONTAINER"),
        ("/a:/b:ro:ro", "give HOST:CONTAINER"),
        (":/b", "'' is no plain absolute path"),
        ("/a:", "'' is no plain absolute path"),
        ("a:/b", "'a' is no plain absolute path"),
        ("./a:/b", "'./a' is no plain"),
        ("/a:b", "'b' is no plain absolute path"),
        ("/a/../b:/c", "'/a/../b' is no plain"),
        ("/a/.:/c", "'/a/.' is no plain"),
        ("/a/:/c", "'/a/' is no plain"),
        ("//a:/c", "'//a' is no plain"),
        ("//:/c", "'//' is no plain"),
        ("/a:/c/..", "'/c/..' is no plain"),
        ("/a\n:/c", "is no plain"),
        ("/a\0:/c", "is no plain"),
        ("/a\udcff:/c", "is no plain"),
        ("/a:/", "a container's / is its image's"),
    ],
)
def test_volumes_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_volume(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64M", 64 * 1024**2), ("1.5G", 1536 * 1024**2)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_shm_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4095", "-1", "1GB", "9999999P", "nan"])
def test_sizes_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match=r"^shm_size "):
        parse_shm_size(text)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("/run", "/run/secrets", True),
        ("/run/secrets", "/run/secrets", True),
        ("/run/secrets/a", "/run/secrets", True),
        ("/run/secretsx", "/run/secrets", False),
        ("/runs", "/run/secrets", False),
    ],
)
def test_paths_overlap_by_their_parts(one: str, other: str, meet: bool) -> None:
    assert overlap(one, other) == overlap(other, one) == meet


SERVICE = """\
services:
  a:
    image: i
    user: 1000
    volumes: ["/srv/{data}:/data:ro"]
    parameters: {data: {}}
"""


def test_a_request_chooses_within_the_volume(tmp_path: Path) -> None:
    spec = read(tmp_path, SERVICE).request("a", "1", {"data": "set/one"}).spec
    assert spec.volumes == ("/srv/set/one:/data:ro",)


@pytest.mark.parametrize("chosen", ["", "..", "../etc", "x/../..", "/etc", ".", "x/", "x:/y", ":"])
def test_a_request_cannot_leave_the_volume(tmp_path: Path, chosen: str) -> None:
    config = read(tmp_path, SERVICE)
    with pytest.raises(InputError, match=r"^volume "):
        config.request("a", "1", {"data": chosen})


def test_what_is_nothing_is_not_the_parent_and_a_colon_no_end(tmp_path: Path) -> None:
    text = SERVICE.replace("/srv/{data}:/data:ro", "/{data}:/x{data}")
    config = read(tmp_path, text)
    for chosen in ("", "a:ro"):
        with pytest.raises(InputError, match=f"data is {chosen!r}, no part of a path"):
            config.request("a", "1", {"data": chosen})
