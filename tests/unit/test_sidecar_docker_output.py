"""A container's output out of the daemon's frames."""

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch.docker.output import ContainerLog

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def frame(content: bytes, stream: int = 1) -> bytes:
    """As the Engine API describes it."""
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


class Answered:
    """A log, and the daemon's end of its connection."""

    def __init__(self) -> None:
        ours, self.daemon = socket.socketpair()
        self.daemon.sendall(HEAD)
        response = http.client.HTTPResponse(ours)
        response.begin()
        self.log = ContainerLog(ours, response)


@pytest.fixture
def answered() -> Iterator[Answered]:
    made = Answered()
    yield made
    made.log.close()
    made.daemon.close()


def rest(log: ContainerLog) -> bytes:
    return b"".join(iter(log.read, b""))


def test_both_streams_in_their_order(answered: Answered) -> None:
    answered.daemon.sendall(chunk(frame(b"out\n") + frame(b"err\n", 2)) + chunk(frame(b"more")))
    answered.daemon.sendall(chunk(b""))
    assert rest(answered.log) == b"out\nerr\nmore"
    assert answered.log.read() == b""


def test_frames_that_are_cut_by_chunks_and_by_the_socket(answered: Answered) -> None:
    whole = frame(b"") + frame(b"x" * 200_000) + frame(b"\x01\x00\x00\x00\x00\x00\x00\x05 not one")
    sent = b"".join(chunk(whole[at : at + 777]) for at in range(0, len(whole), 777)) + chunk(b"")
    sender = threading.Thread(target=answered.daemon.sendall, args=(sent,))
    sender.start()
    assert rest(answered.log) == b"x" * 200_000 + b"\x01\x00\x00\x00\x00\x00\x00\x05 not one"
    sender.join()


def test_output_comes_when_it_comes(answered: Answered) -> None:
    answered.daemon.sendall(chunk(frame(b"now")))
    assert answered.log.read() == b"now"
    answered.daemon.sendall(chunk(frame(b"then")))
    assert answered.log.read() == b"then"


def test_close_ends_a_read_that_waits(answered: Answered) -> None:
    answered.daemon.sendall(chunk(frame(b"first")))
    assert answered.log.read() == b"first"
    ended: list[bytes] = []
    reader = threading.Thread(target=lambda: ended.append(answered.log.read()))
    reader.start()
    answered.log.close()
    reader.join(10)
    assert ended == [b""]
    assert answered.log.read() == b""
    answered.log.close()


@pytest.mark.parametrize("cut", [b"\x01\x00\x00", frame(b"content")[:-3]])
def test_a_frame_that_is_cut_off_is_an_error(answered: Answered, cut: bytes) -> None:
    answered.daemon.sendall(chunk(cut) + chunk(b""))
    with pytest.raises(InputOutputError, match="broke off the log"):
        rest(answered.log)


def test_a_daemon_that_goes_away_is_an_error(answered: Answered) -> None:
    answered.daemon.sendall(chunk(frame(b"first")))
    assert answered.log.read() == b"first"
    answered.daemon.close()
    with pytest.raises(InputOutputError, match="broke off the log"):
        answered.log.read()
