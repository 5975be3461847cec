"""Hosts as they may be: a running tattle, a Prometheus with our rules, and traffic of every kind.

Of four targets one is free, one is blocked, one is audited, and one serves a model's API and passes on
what it is asked. A recorded host (recorded.py) has the troubles
that cannot be made on demand; a third host is down.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import yaml

from tests.deploy.expressions import DEPLOY, Expression, fill_in, rules
from tests.deploy.recorded import BURST, NEWBORN, served
from tests.kernel.egress_paths import WAYS
from tests.support.cgroups import Jail
from tests.support.daemon import Tattle
from tests.support.network import PEER4, Lab
from tests.support.prometheus import answer_of, ask, free_port, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packet_counters import Wire

SCRAPE = "500ms"
CLOUD = 20_000
"""Bytes that a prompt to a "cloud" model has."""
HISTORY_S = 3
"""Seconds that Prometheus has looked before anything happens: only then is a new series known to be new."""


class Scene(NamedTuple):
    """What was made, and how to ask about it."""

    api: str
    real: str
    recorded: str
    down: str
    free: str
    blocked: str
    audited: str
    model: str
    wire: Wire
    betrayal: Wire
    now: float
    window_s: int

    def answer(self, one: Expression, instance: str, target: str = ".*") -> list[float]:
        """Return an expression's values at `now`, of a range the last ones; raises what Prometheus says."""
        text = fill_in(one.text, self.window_s, instance=instance, target=target, job=".*")
        if one.instant:
            found = ask(self.api, "query", query=text, time=self.now)["result"]
            return [float(each["value"][1]) for each in found]
        start = self.now - self.window_s
        found = ask(self.api, "query_range", query=text, start=start, end=self.now, step=1)["result"]
        return [float(each["values"][-1][1]) for each in found]


def config(*listen: str) -> str:
    """Give deploy/prometheus/scrape.yml with other addresses, and no patience."""
    found = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
    found["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    found["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in found["rule_files"]]
    found["scrape_configs"][0]["static_configs"][0]["targets"] = list(listen)
    return yaml.safe_dump(found)


@contextmanager
def scene(lab: Lab, scratch: Path) -> Iterator[Scene]:
    """Make it all, and end it."""
    settings = scratch / "tattle.toml"
    settings.write_text("program_stats = true\n")
    free, model = (lab.cgroup(f"lab-{lab.token}/{name}") for name in ("free", "ollama.service"))
    watched = [f"cgroup:{lab.cgroup_path(cgroup)}" for cgroup in (free, model)]
    options = [word for target in watched for word in ("--target", target)]
    tattle = Tattle(scratch, "--config", str(settings), *options)
    down = f"127.0.0.1:{free_port()}"
    try:
        tattle.start()
        blocked, audited = Jail(lab, tattle), Jail(lab, tattle)
        blocked.block()
        audited.block("--audit")
        real = f"127.0.0.1:{tattle.port}"
        with served() as recorded, prometheus(config(real, recorded.address, down), scratch) as api:
            answer_of(api, f"count(up offset {HISTORY_S}s) == 3")
            began = min(value for _, value in answer_of(api, f"timestamp(up offset {HISTORY_S}s)"))
            recorded.go_wrong()
            wires = _traffic(lab, free, blocked, audited), _inference(lab, model)
            names = (watched[0], blocked.selector, audited.selector, watched[1])
            _await(api, names, wires)
            now = time.time()
            yield Scene(api, real, recorded.address, down, *names, *wires, now, int(now - began - 1))
    finally:
        tattle.remove()


def _traffic(lab: Lab, free: Path, blocked: Jail, audited: Jail) -> Wire:
    """Let each target do what it does; what the free one did is returned as the wire saw it."""
    port = lab.peer.serve(host=PEER4)
    lab.run("tcp.py", op="transfer", host=PEER4, port=port, up=50_000, down=70_000, cgroup=free)
    for cgroup, name in (
        (blocked.inside, "s01-tcp"),
        (blocked.inside, "s04-udp"),
        (blocked.inside, "s06-udp-connected"),
        (blocked.inside, "s10-raw-protocol"),
        (audited.inside, "s19-sixty"),
    ):
        WAYS[name](lab, cgroup)
    return lab.wire("tcp", PEER4, port)


def _inference(lab: Lab, cgroup: Path) -> Wire:
    """Let a server of a model's API pass on a prompt, on a connection that it has; returned is that alone."""
    server, port = lab.start("api.py", cgroup=cgroup), lab.peer.serve(host=PEER4)
    for order in ({"do": "listen", "host": "127.0.0.1"}, {"do": "upstream", "host": PEER4, "port": port}):
        server.go(json.dumps(order))
        server.ready()
    before = lab.wire("tcp", PEER4, port)
    prompt = {"method": "POST", "target": "/api/chat", "wait": 1, "headers": {"X-Cloud": str(CLOUD)}}
    place = {"host": "127.0.0.1", "port": server.lines[0]["port"]}
    lab.run("clients.py", calls=[{**place, "requests": [prompt]}])
    lab.drained(port, CLOUD)
    return lab.wire("tcp", PEER4, port).less(before)


def _await(api: str, names: tuple[str, ...], wires: tuple[Wire, ...]) -> None:
    """Wait until Prometheus has scraped and judged all of it."""
    free, blocked, audited, model = names
    sent, attempts = "sum(tattle_transmit_bytes_total", "sum(tattle_connection_attempts_total"
    for expression in (
        f'{sent}{{target="{free}", direction="out"}}) >= {wires[0].bytes_out}',
        f'{sent}{{target="{model}", scope="internet", phase="inference"}}) >= {wires[1].bytes_out}',
        f'tattle_unexpected_destinations{{target="{model}"}} > 0',
        f'{attempts}{{target="{blocked}", verdict="denied"}}) >= 2',
        f'{attempts}{{target="{audited}", verdict="would-deny"}}) > 0',
        f'sum(tattle_denied_packets_total{{target="{blocked}"}}) > 0',
        f'tattle_transmit_bytes_total{{destination="{NEWBORN}"}} == {BURST}',
        "job_instance_target:tattle_denials:increase5m > 20",
        *(f'ALERTS{{alertname="{rule["alert"]}"}}' for rule in rules() if "alert" in rule),
    ):
        answer_of(api, expression)
