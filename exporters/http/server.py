"""The HTTP side: a page for people, /metrics for Prometheus, /healthz for whoever watches the watcher."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler

import msgspec
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from exporters.http import auth
from exporters.http.auth import Guard, Keys
from exporters.http.switch import PATH

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.registry import Collector

    from exporters.http.switch import Switch

log = structlog.get_logger("tattle")

_CLIENT_TIMEOUT_S: Final = 10
_CLIENTS_MAX: Final = 32  # at a time; a browser opens a handful, a scraper one
WITHOUT: Final = Keys()
_TEXT: Final = "text/plain; charset=utf-8"
Start = Any  # wsgiref's start_response


class Asset(NamedTuple):
    """What a path gives: its media type and how to make it; `public`: also to who is not known."""

    kind: str
    make: Callable[[], bytes]
    public: bool = False


class _Server(ThreadingWSGIServer):
    daemon_threads = True
    block_on_close = False  # whoever is slow is no reason to stay

    def __init__(
        self, door: socket.socket, handler: type[WSGIRequestHandler], tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(door.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # of the base class's own making; the door is open already
        self.socket = door
        # Where the base class binds it also asks a resolver for this host's name: nothing may go out.
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()
        self._tls = tls
        self._room = threading.BoundedSemaphore(_CLIENTS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's types
        """Give each client a thread, up to a bound: a crowd is turned away, not queued."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve one client, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Shake hands in the client's own thread: one that is slow delays nobody."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_CLIENT_TIMEOUT_S)
        with self._tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Say nothing of clients that hang up or speak no TLS; anything else is a fault of ours."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request was not answered", exc_info=error)


class _Quiet(WSGIRequestHandler):
    timeout = _CLIENT_TIMEOUT_S

    def get_environ(self) -> dict[str, Any]:
        """Add the client's port to what the base class tells of a request."""
        return {**super().get_environ(), "REMOTE_PORT": str(self.client_address[1])}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: scrapes are no news."""


class MetricsServer:
    """Serves on a socket that listens already, after `start`."""

    def __init__(self, door: socket.socket, keys: Keys = WITHOUT) -> None:
        local = auth.is_loopback(str(door.getsockname()[0]))
        self._guard = Guard(keys.token, local=local, secure=keys.tls is not None)
        self._server = _Server(door, _Quiet, keys.tls)
        self._server.set_app(self._answer)
        self.port = int(self._server.server_port)
        self._metrics: Callable[..., Iterable[bytes]] | None = None
        self._ill: Callable[[], list[str]] = list
        self._assets: Mapping[str, Asset] = {}
        self._switch: Switch | None = None
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(
        self,
        collector: Collector,
        ill: Callable[[], list[str]],
        assets: Mapping[str, Asset] | None = None,
        switch: Switch | None = None,
    ) -> None:
        """Serve; `ill` gives what is wrong with tattle now, one line each, `assets` the page by path.

        Without a `switch` nothing can be changed.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._ill = ill
        self._assets = assets or {}
        self._switch = switch
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        """Answer a request as PEP 3333 says, with the headers that hold a browser to our own files."""

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:  # noqa: ANN401 - wsgiref's
            return start_response(status, [*headers, *auth.HEADERS], *more)

        body = self._route(environ, start)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    def _route(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if not self._guard.welcome(environ):
            return _say(start, "421 Misdirected Request", "ask for localhost or 127.0.0.1")
        if path == "/login" and method == "POST" and self._guard.token is not None:
            return self._log_in(environ, start)
        if self._switch is not None and path.startswith(PATH) and self._guard.known(environ):
            status, body, headers = self._switch.answer(environ)
            start(status, [("Content-Type", "application/json"), *headers])
            return [msgspec.json.encode(body)]
        if method not in {"GET", "HEAD"}:
            return _say(start, "405 Method Not Allowed", "nothing changes here", ("Allow", "GET, HEAD"))
        return self._get(path, environ, start)

    def _get(self, path: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        known, asset = self._guard.known(environ), self._assets.get(path)
        if path == "/healthz":
            return self._health(start, known=known)
        if not known and not (asset and asset.public):
            return _refuse(path, start)
        if path == "/metrics" and self._metrics is not None:
            return self._metrics({**environ, "REQUEST_METHOD": "GET"}, start)  # it knows no HEAD
        return _give(environ, start, asset) if asset else _lost(start)

    def _health(self, start: Start, *, known: bool) -> Iterable[bytes]:
        """Tell how tattle is; a stranger learns whether it is well, not what is wrong."""
        wrong = self._ill()
        text = "\n".join(wrong if known else ["ill"]) if wrong else "ok"
        return _say(start, "503 Service Unavailable" if wrong else "200 OK", text)

    def _log_in(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        cookie = self._guard.log_in(environ)
        if cookie is None:
            return _say(start, "303 See Other", "that is not the token", ("Location", "login-again"))
        return _say(start, "303 See Other", "see the page", ("Location", "./"), ("Set-Cookie", cookie))

    def close(self) -> None:
        """Stop listening; requests under way are abandoned."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _say(start: Start, status: str, text: str, *headers: tuple[str, str]) -> list[bytes]:
    """Answer with a line of text."""
    start(status, [("Content-Type", _TEXT), *headers])
    return [f"{text}\n".encode()]


def _refuse(path: str, start: Start) -> list[bytes]:
    """Send people to the form, and programs for the token."""
    if path == "/":
        return _say(start, "303 See Other", "see /login", ("Location", "login"))
    return _say(start, "401 Unauthorized", "give the token", ("WWW-Authenticate", 'Bearer realm="tattle"'))


def _lost(start: Start) -> list[bytes]:
    return _say(start, "404 Not Found", "tattle: see / and /metrics and /healthz")


def _give(environ: dict[str, Any], start: Start, asset: Asset) -> list[bytes]:
    """Answer with what the path stands for, packed where the client takes that."""
    body, packed = asset.make(), []
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        import gzip  # noqa: PLC0415 - nobody may ever look

        body, packed = gzip.compress(body, 1, mtime=0), [("Content-Encoding", "gzip")]
    start("200 OK", [("Content-Type", asset.kind), ("Vary", "Accept-Encoding"), *packed])
    return [body]
