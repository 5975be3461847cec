"""The HTTP side: /metrics for Prometheus, /healthz for whoever watches the watcher."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from prometheus_client.registry import Collector

_CLIENT_TIMEOUT_S: Final = 10
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
Start = Any  # wsgiref's start_response


class _Server(ThreadingWSGIServer):
    daemon_threads = True

    def __init__(self, door: socket.socket, handler: type[WSGIRequestHandler]) -> None:
        super().__init__(door.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # of the base class's own making; the door is open already
        self.socket = door
        # Where the base class binds it also asks a resolver for this host's name: nothing may go out.
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = _CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: scrapes are no news."""


class MetricsServer:
    """Serves on a socket that listens already, after `start`."""

    def __init__(self, door: socket.socket) -> None:
        self._server = _Server(door, _Quiet)
        self._server.set_app(self._answer)
        self.port = int(self._server.server_port)
        self._metrics: Callable[..., Iterable[bytes]] | None = None
        self._ill: Callable[[], list[str]] = list
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self, collector: Collector, ill: Callable[[], list[str]]) -> None:
        """Serve; `ill` gives what is wrong with tattle now, one line each."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._ill = ill
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics" and self._metrics is not None:
            return self._metrics(environ, start_response)
        if path == "/healthz":
            wrong = self._ill()
            start_response("503 Service Unavailable" if wrong else "200 OK", [_TEXT])
            return ["".join(f"{line}\n" for line in wrong or ["ok"]).encode()]
        start_response("404 Not Found", [_TEXT])
        return [b"tattle: see /metrics and /healthz\n"]

    def close(self) -> None:
        """Stop listening; requests under way are abandoned."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
