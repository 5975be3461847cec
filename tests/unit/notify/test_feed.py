"""What the daemon tells desktops, through its restarts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tracer.errors import TattleError
from tracer.notify.feed import Feed, door


def listening(path: Path) -> socket.socket:
    """Be a daemon."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_the_door_is_beside_the_control_socket() -> None:
    """One a instance."""
    assert door("tattle") == Path("/run/tattle/notices.sock")


def test_lines_may_come_in_pieces(tmp_path: Path) -> None:
    """An event is given when all of it is there; what is no event is not."""
    feed = Feed(tmp_path / "door")
    with listening(tmp_path / "door") as server:
        feed.connect()
        daemon, _ = server.accept()
        with daemon:
            assert daemon.recv(100) == b'{"ask":"notices"}\n'
            assert feed.read() == []
            daemon.sendall(b'{"watching":true}\n{"event":"ill","i')
            assert feed.read() == []
            daemon.sendall(b'll":[]}\n')
            assert feed.read() == [{"event": "ill", "ill": []}]
    feed.close()


def test_a_daemon_that_went_is_tried_again_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a minute apart; nothing is polled while it is there."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    feed, waits = Feed(tmp_path / "door"), []
    for _ in range(9):
        feed.connect()
        waits.append(feed.wait())
        clock[0] += feed.wait() or 0.0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    with listening(tmp_path / "door"):
        feed.connect()
        assert (feed.wait(), len(feed.sockets)) == (None, 1)
    feed.close()


def test_a_refusal_is_the_daemons_own_error(tmp_path: Path) -> None:
    """With its hint and exit code."""
    feed = Feed(tmp_path / "door")
    with listening(tmp_path / "door") as server:
        feed.connect()
        daemon, _ = server.accept()
        with daemon:
            daemon.sendall(b'{"error":"not you","hint":"ask root","exit_code":3}\n')
            with pytest.raises(TattleError, match="not you") as raised:
                feed.read()
    assert (raised.value.hint, raised.value.exit_code) == ("ask root", 3)
    feed.close()
