"""The daemon's local socket: JSON lines, one question a connection, answers streamed.

``{"ask": "flows", "targets": [...], "newest": N}`` answers ``{"since", "losses", "totals", "count"}``, then
a line a flow, then ``{"end": true}``. ``{"ask": "watch", "targets": [...]}`` answers ``{"watching": true}``,
then a line an event, to the end of time. ``{"ask": "open", "owner": NAME, "uid": N}`` answers the one-time
link to the page that switches, to root alone. ``{"ask": "reload"}`` answers ``{"end": true}`` when the
configuration was read again and all of it is in force. An error is ``{"error", "hint", "exit_code"}``.

The server never waits: what a client does not read is kept up to a bound; a watcher then loses whole events,
which are counted and told.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tracer.errors import DaemonAbsent, HostError, NotRoot, TattleError
from tracer.host.cgroups import BPFFS, instance_paths
from tracer.model.jsonlines import EVERYBODY, decode, encode, notice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tracer.host.faults import Faults
    from tracer.model.process import ProcessInfo

Json = dict[str, Any]

WAITING_MAX: Final = 4 << 20  # bytes for one watcher
_REFILL: Final = 256 << 10  # bytes made ahead of a slow reader
_QUESTION_MAX: Final = 1 << 20
_CLIENTS_MAX: Final = 64
_RECEIVE: Final = 1 << 16
CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_NAP_S: Final = 3600.0  # select(2) takes no infinite time, and only signals end a watch


def notice_now(reason: str, count: int) -> bytes:
    """Return the line that says what was lost, with the time of now."""
    return notice(reason, count, time.time_ns())


class Client:
    """One connection: what it asked, and what waits to be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.uid = _peer_uid(sock)
        self.question = bytearray()
        self.waiting: deque[bytes] = deque()
        self.bytes = 0
        self.more: Iterator[bytes] | None = None
        self.wants: Callable[[ProcessInfo | None], bool] | None = None  # a watcher's filter
        self.lost = 0
        self.ending = False

    def put(self, line: bytes) -> None:
        """Have a line sent."""
        self.waiting.append(line)
        self.bytes += len(line)

    def send(self) -> None:
        """Send without waiting, making more of a streamed answer as it goes out."""
        while True:
            while self.more is not None and self.bytes < _REFILL:
                line = next(self.more, None)
                if line is None:
                    self.more = None
                    self.ending = True
                else:
                    self.put(line)
            if not self.waiting:
                return
            chunk = b"".join(self.waiting)
            self.waiting.clear()
            try:
                sent = self.sock.send(chunk)
            except BlockingIOError:
                sent = 0
            self.bytes -= sent
            if sent < len(chunk):
                self.waiting.append(chunk[sent:])
                return


class Door(NamedTuple):
    """Where a server listens: to root alone.

    With `welcome` to all processes; it raises TattleError for those that are turned away.
    """

    path: Path
    welcome: Callable[[socket.socket], None] | None = None


class ControlServer:
    """Serves the socket from the daemon's own loop."""

    def __init__(
        self,
        door: Door,
        selector: selectors.BaseSelector,
        answer: Callable[[Json, Client], Iterator[bytes]],
        lost: Callable[[str, int], None],
        faults: Faults,
    ) -> None:
        """Listen at the `door`; `answer` gives the lines of an answer, or raises TattleError."""
        self._welcome = door.welcome
        self._faults = faults
        self._path = door.path
        self._selector = selector
        self._answer = answer
        self._lost = lost
        self._clients: set[Client] = set()
        self._listener = _listen(door.path, 0o600 if door.welcome is None else 0o666)
        self._listens = False
        self.listen()

    @property
    def watchers(self) -> list[Client]:
        """Those who want events."""
        return [client for client in self._clients if client.wants is not None]

    def publish(self, who: ProcessInfo | None, line: bytes) -> None:
        """Give an event to every watcher who wants it."""
        for client in self.watchers:
            if who is not EVERYBODY and not (client.wants and client.wants(who)):
                continue
            if client.bytes + len(line) > WAITING_MAX:
                client.lost += 1
                self._lost("watcher_slow", 1)
            else:
                client.put(line)

    def flush(self, lost: Callable[[str, int], bytes]) -> None:
        """Send what was published; a watcher that caught up is told what it lost by `lost`."""
        for client in self.watchers:
            if client.lost and not client.waiting:
                client.put(lost("watcher_slow", client.lost))
                client.lost = 0
            if client.waiting:
                self._send(client)

    def listen(self) -> None:
        """Take calls again, after a time in which none could be taken."""
        if not self._listens:
            self._listens = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except BlockingIOError:  # it hung up before it was answered
            return
        except OSError as error:  # no descriptors are left: it would be told of the call again and again
            self._faults.note("control", str(self._path), error)
            self._selector.unregister(self._listener)
            self._listens = False
            return
        self._faults.well("control", str(self._path))
        sock.settimeout(0)
        if len(self._clients) >= _CLIENTS_MAX or not self._is_welcome(sock):
            sock.close()
            return
        client = Client(sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, lambda mask: self._serve(client, mask))

    def _is_welcome(self, sock: socket.socket) -> bool:
        if self._welcome is None:
            return True
        try:
            self._welcome(sock)
        except TattleError as error:
            with contextlib.suppress(OSError):
                sock.send(_refusal(error))
            return False
        return True

    def _serve(self, client: Client, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._send(client)
        if mask & selectors.EVENT_READ and client in self._clients:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.question += data
        if not data or len(client.question) > _QUESTION_MAX:
            self._drop(client)
        elif b"\n" in client.question:
            self._begin(client)

    def _begin(self, client: Client) -> None:
        line, _, _ = bytes(client.question).partition(b"\n")
        client.question.clear()
        try:
            client.more = self._answer(decode(line), client)
        except msgspec.MsgspecError as error:
            client.more = iter(
                [encode({"error": f"no question: {error}", "hint": "", "exit_code": 2}) + b"\n"]
            )
        except TattleError as error:
            client.more = iter([_refusal(error)])
        self._send(client)

    def _send(self, client: Client) -> None:
        try:
            client.send()
        except OSError:
            self._drop(client)
            return
        if client.ending and not client.waiting and client.wants is None:
            self._drop(client)
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waiting else 0)
        if self._selector.get_key(client.sock).events != mask:
            self._selector.modify(client.sock, mask, lambda now: self._serve(client, now))

    def _drop(self, client: Client) -> None:
        self._clients.discard(client)
        with contextlib.suppress(KeyError):
            self._selector.unregister(client.sock)
        client.sock.close()

    def close(self) -> None:
        """Stop listening and hang up on everybody."""
        for client in list(self._clients):
            self._drop(client)
        if self._listens:
            self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)


def _refusal(error: TattleError) -> bytes:
    return encode({"error": error.message, "hint": error.hint, "exit_code": error.exit_code}) + b"\n"


def _peer_uid(sock: socket.socket) -> int:
    """Return whose process has connected: SO_PEERCRED, unix(7)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(raw)[1])


def _listen(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a predecessor who was killed: the instance's lock is held by us
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise HostError(
            f"cannot make the control socket {path}: {error.strerror}", "see whether /run is writable"
        ) from None
    path.chmod(mode)
    sock.listen(_CLIENTS_MAX)
    sock.settimeout(0)
    return sock


def socket_path(instance: str) -> Path:
    """Give where the daemon of an instance listens."""
    return instance_paths(instance, BPFFS).control


def ask(path: Path, question: Json, instance: str) -> Iterator[Json]:
    """Ask the daemon at `path` and yield its lines; raises DaemonAbsent, or the error it tells."""
    with _connected(path, instance) as sock:
        sock.sendall(encode(question) + b"\n")
        with sock.makefile("rb") as lines:
            for line in lines:
                yield _checked(decode(line))


def known_since(instance: str, target: str) -> str | None:
    """Return since when the daemon knows and counts all that matches a target; None where it does not."""
    question = {"ask": "flows", "targets": [target], "newest": 1}
    try:
        head = next(ask(socket_path(instance), question, instance), {})
    except TattleError:
        return None
    since = head.get("covered_since")
    return since if isinstance(since, str) else None


def stream(path: Path, question: Json, instance: str, until: float) -> Iterator[list[bytes]]:
    """Ask for events and yield batches of lines as they come, until the time `until` (monotonic seconds)."""
    with _connected(path, instance) as sock:
        sock.sendall(encode(question) + b"\n")
        buffer, first = b"", True
        while (left := until - time.monotonic()) > 0:
            if not select.select([sock], [], [], min(left, _NAP_S))[0]:
                continue
            data = sock.recv(_RECEIVE)
            if not data:
                raise DaemonAbsent(f"the daemon '{instance}' has ended", "start it again: sudo tattle run")
            *lines, buffer = (buffer + data).split(b"\n")
            if first and lines:
                _checked(decode(lines.pop(0)))
                first = False
            yield [line + b"\n" for line in lines]


def _connected(path: Path, instance: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise absent(instance) from None
    except PermissionError:
        sock.close()
        raise NotRoot(f"{path} may not be opened: Permission denied", "run it with sudo") from None
    return sock


def absent(instance: str) -> DaemonAbsent:
    """Give the error that says that the daemon does not run."""
    option = "" if instance == "tattle" else f" --instance {instance}"
    return DaemonAbsent(f"no tattle daemon '{instance}' is running", f"start it: sudo tattle run{option}")


def _checked(line: Json) -> Json:
    if "error" in line:
        error = TattleError(str(line["error"]), str(line["hint"]))
        error.exit_code = int(line["exit_code"])
        raise error
    return line


def flows(path: Path, targets: list[str], instance: str) -> Json:
    """Ask the daemon for all flows of `targets` (none: of everybody), as the object of the contract."""
    answer = ask(path, {"ask": "flows", "targets": targets}, instance)
    head = next(answer, None)
    if head is None:
        raise DaemonAbsent(f"the daemon '{instance}' ended while it was asked", "ask again, or see its log")
    rows: list[Json] = []
    for line in answer:
        if "end" in line:
            return {
                "since": head["since"],
                "flows": rows,
                "losses": head["losses"],
                "refused": head["refused"],
            }
        rows.append(line)
    raise DaemonAbsent(f"the daemon '{instance}' ended while it answered", "ask again, or see its log")
