"""Proxies that a program is told to use: what goes through one leaves from another process.

Told by the environment it was started with, or by the files of the service that starts it next. A proxy's
name is looked up in the hosts file that the process sees, and nowhere else: tattle asks no name server.
Credentials in a proxy's address are never shown.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracer.host import network
from tracer.model.process import unit_of
from tracer.model.scope import Scope, packed, scope
from tracer.model.text import escape
from tracer.netlink import addresses
from tracer.runtimes.detect import is_interpreter
from tracer.runtimes.switches import environment
from tracer.runtimes.units import UNIT_PATHS, settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracer.containers.engines import ContainerEngines

Json = dict[str, Any]

# Of curl(1), Go's net/http, Python's requests, httpx and aiohttp: upper or lower case
VARIABLES: Final = tuple(
    name
    for upper in ("HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "WSS_PROXY", "WS_PROXY")
    for name in (upper, upper.lower())
)
_EXEMPT: Final = ("NO_PROXY", "no_proxy")
"""What is not sent through a proxy: names, their endings, networks; each program reads it in its own way."""
_READ: Final = {*VARIABLES, *_EXEMPT}
_HERE: Final = Path("/proc/self")
_PORTS: Final = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_HTTP_PROXY_PORT: Final = 1080  # curl's, where the address names none
_HIGHEST_PORT: Final = 0xFFFF
_NAMES_MAX: Final = 1 << 16  # bytes of a hosts file


class _Told(NamedTuple):
    """A proxy as a variable names it, and what is exempt from it."""

    variable: str
    host: str
    port: int
    exempt: str | None


class Server(NamedTuple):
    """The process that a proxy on this host is; `selector` names it as a target."""

    pid: int
    comm: str
    selector: str


class Proxy(NamedTuple):
    """A proxy that processes are told to use.

    `local`: it is on this host; None where its name stands in no hosts file. `server` is None where no
    process of this host listens there, or none can be seen. `no_proxy` is what goes past it, as it is
    written. `file` is that of a service which will set it at its next start; None: processes have it now.
    """

    variable: str
    host: str
    port: int
    local: bool | None
    server: Server | None
    pids: tuple[int, ...]
    no_proxy: str | None = None
    file: str | None = None

    @property
    def document(self) -> Json:
        """Return it as JSON tells it."""
        server = self.server._asdict() if self.server else dict.fromkeys(Server._fields)
        return {
            "variable": self.variable,
            "address": self.host,
            "port": self.port,
            "local": self.local,
            "pids": list(self.pids),
            "no_proxy": self.no_proxy,
            "file": self.file,
            "server": server if self.server else None,
            "note": sentence(self),
        }


def proxies(processes: Iterable[Path], engines: ContainerEngines | None = None) -> tuple[Proxy, ...]:
    """Return the proxies of processes (directories of /proc), each once, with those that use it."""
    found: dict[_Told, tuple[Path, list[int]]] = {}
    for process in processes:
        for told in _told(environment(process, _READ)):
            found.setdefault(told, (process, []))[1].append(int(process.name))
    return tuple(_looked_at(told, *users, engines) for told, users in found.items())


def of_environment(values: dict[str, str], process: Path) -> tuple[Proxy, ...]:
    """Return the proxies that a command will find in `values`, as `process`, which starts it, sees them."""
    return tuple(_looked_at(told, process, [], None) for told in _told(values))


def of_unit(unit: str, places: Iterable[Path] = UNIT_PATHS, here: Path = _HERE) -> tuple[Proxy, ...]:
    """Return the proxies that a service will find when it is started next, as its files say."""
    written = settings(unit, _READ, places)
    values = {name: one.value for name, one in written.items()}
    return tuple(
        proxy._replace(file=escape(written[proxy.variable].file)) for proxy in of_environment(values, here)
    )


def beside(now: Iterable[Proxy], later: Iterable[Proxy]) -> tuple[Proxy, ...]:
    """Return the proxies that are used now, and those of services' files that are not the same."""
    used = tuple(now)
    known = {(one.variable, one.host, one.port, one.no_proxy) for one in used}
    fresh = {(one.variable, one.host, one.port, one.no_proxy): one for one in later}
    return used + tuple(one for key, one in fresh.items() if key not in known)


def _told(values: dict[str, str]) -> Iterator[_Told]:
    """Yield each proxy that an environment names."""
    exempt = next((values[name] for name in _EXEMPT if values.get(name, "").strip()), None)
    for variable in VARIABLES:
        if (place := parse(values.get(variable, ""))) is not None:
            yield _Told(variable, *place, exempt)


def parse(text: str) -> tuple[str, int] | None:
    """Take [SCHEME://][USER:PASSWORD@]HOST[:PORT][/] apart; None: it is no proxy."""
    scheme, _, rest = text.strip().rpartition("://")
    place = rest.partition("/")[0].rpartition("@")[2]
    host, colon, number = place.rpartition(":") if not place.endswith("]") else (place, "", "")
    if not colon:
        host, number = place, ""
    if not host or (number and not (number.isascii() and number.isdecimal())):
        return None
    port = int(number) if number else _PORTS.get(scheme.lower(), _HTTP_PROXY_PORT)
    return (host.strip("[]").lower(), port) if 0 < port <= _HIGHEST_PORT else None


def sentence(proxy: Proxy) -> str:
    """Return what a user has to know of a proxy, in words."""
    if proxy.no_proxy is None:
        return _where(proxy)
    past = "everything" if proxy.no_proxy.strip() == "*" else proxy.no_proxy
    return f"{_where(proxy)}; past it goes, by NO_PROXY: {past}"


def _where(proxy: Proxy) -> str:
    host = f"[{proxy.host}]" if ":" in proxy.host else escape(proxy.host)
    source = f" (in {proxy.file}, from the next start on)" if proxy.file else ""
    start = f"{proxy.variable}{source} sends traffic through {host}:{proxy.port}"
    if proxy.local is None:
        return f"{start}; no hosts file has that name, so whether it is on this host is not known"
    if not proxy.local:
        return f"{start}, which is another host"
    if proxy.server is None:
        return f"{start}, on this host, where nothing that can be seen listens"
    server = proxy.server
    return (
        f"{start}, on this host: {server.comm} (pid {server.pid}). What it sends is not the target's: "
        f"name {server.selector} as a target, too"
    )


def _looked_at(told: _Told, process: Path, pids: list[int], engines: ContainerEngines | None) -> Proxy:
    variable, host, port, exempt = told
    address = _address(host, process)
    local, server = None, None
    if address is not None:
        local = _is_local(address, process)
        server = _server(address, port, process, engines) if local else None
    return Proxy(variable, host, port, local, server, tuple(sorted(pids)), exempt)


def _address(host: str, process: Path) -> str | None:
    """Return a host's address: its own text, localhost's, or what the process's hosts file says of it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        with (process / "root/etc/hosts").open("rb") as file:
            lines = file.read(_NAMES_MAX).decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.partition("#")[0].lower().split()
        if host in fields[1:]:
            return fields[0]
    return "127.0.0.1" if host == "localhost" or host.endswith(".localhost") else None  # RFC 6761 6.3


def _is_local(address: str, process: Path) -> bool:
    raw = packed(address)
    if raw is not None and scope(raw) == Scope.LOOPBACK:
        return True
    return any(raw in addresses.of_process(place.name, place.parent) for place in _places(process))


def _places(process: Path) -> tuple[Path, Path]:
    """Return a process of each network that the address may be meant in: its own, and the host's."""
    return process, process.parent / "self"


def _server(address: str, port: int, process: Path, engines: ContainerEngines | None) -> Server | None:
    for place in _places(process):
        try:
            listener = network.serving(network.listeners(place), address, port)
        except OSError:
            continue
        pid = network.holder(listener.inode, process.parent) if listener else None
        if pid is not None:
            return _served(process.parent / pid, engines)
    return None


def _served(process: Path, engines: ContainerEngines | None) -> Server:
    try:
        comm = escape((process / "comm").read_bytes().rstrip(b"\n"))
    except OSError:
        comm = "gone"
    return Server(int(process.name), comm, _selector(process, engines))


def _selector(process: Path, engines: ContainerEngines | None) -> str:
    """Return how the process is best named as a target: what stays the same when it is started again."""
    try:
        lines = (process / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        cgroup = next((line[3:] for line in lines if line.startswith("0::")), "")
        exe = str((process / "exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        return f"pid:{process.name}"
    container = engines.of(cgroup) if engines else None
    if container:
        return f"container:{container.name}"
    unit = unit_of(cgroup)
    if unit and unit.endswith(".service"):
        return f"unit:{unit}"
    return f"pid:{process.name}" if is_interpreter(exe) else f"exe:{escape(exe)}"
