"""The manifests are what Kubernetes takes, and what they leave the daemon is enough for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.roots import ROOT, cgroup
from tests.support.daemon import PATIENCE, Tattle, command
from tests.support.packet_counters import die_with_parent
from tracer.cli.parser import build
from tracer.config import parse_config
from tracer.containers import sources
from tracer.host.capabilities import LOADING, Capability

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.34")
"""The first that knows appArmorProfile, and a newer one."""

# monitoring.coreos.com/v1, the part that is used: api-reference/api.md of prometheus-operator.
SECRET_KEY = {
    "type": "object",
    "required": ["name", "key"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
}
ENDPOINT = {
    "type": "object",
    "required": ["port"],
    "additionalProperties": False,
    "properties": {
        "port": {"type": "string"},
        "path": {"type": "string"},
        "scheme": {"enum": ["http", "https"]},
        "interval": {"type": "string", "pattern": r"^\d+s$"},
        "authorization": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"type": {"type": "string"}, "credentials": SECRET_KEY},
        },
        "tlsConfig": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "ca": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"secret": SECRET_KEY, "configMap": SECRET_KEY},
                },
                "serverName": {"type": "string"},
                "insecureSkipVerify": {"type": "boolean"},
            },
        },
        "relabelings": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "sourceLabels": {"type": "array", "items": {"type": "string"}},
                    "targetLabel": {"type": "string"},
                    "replacement": {"type": "string"},
                    "regex": {"type": "string"},
                    "action": {"enum": ["replace", "keep", "drop", "labelmap"]},
                },
            },
        },
    },
}
POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {"type": "object", "required": ["matchLabels"]},
                "podMetricsEndpoints": {"type": "array", "items": ENDPOINT, "minItems": 1},
            },
        },
    },
}


def documents(name: str) -> list[dict[str, Any]]:
    """Read a manifest's documents."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def one(kind: str) -> dict[str, Any]:
    """Give the document of a kind."""
    (found,) = [document for document in documents("tattle.yaml") if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    """Give the pod's specification."""
    spec: dict[str, Any] = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    """Give the one container."""
    (found,) = pod()["containers"]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", documents("tattle.yaml"), ids=lambda document: document["kind"])
def test_the_api_takes_it(document: dict[str, Any], version: str) -> None:
    """Every field is one that this version knows, every value one that it takes."""
    kubernetes_validate.validate(document, version, strict=True)


def test_the_check_would_notice() -> None:
    """A misspelt field is refused; the check above would otherwise prove nothing."""
    wrong = one("DaemonSet")
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_pod_monitor_finds_the_pods() -> None:
    """It is one of the operator's, selects the DaemonSet's labels, and asks for what exists."""
    (monitor,) = documents("podmonitor.yaml")
    jsonschema.validate(monitor, POD_MONITOR)
    labels = one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container()["ports"]}
    secrets = {volume["secret"]["secretName"] for volume in pod()["volumes"] if "secret" in volume}
    assert {endpoint["authorization"]["credentials"]["name"]} == secrets


def test_the_configuration_is_one() -> None:
    """Tattle reads the ConfigMap, and the arguments; files that it names are mounted."""
    text = one("ConfigMap")["data"]["tattle.toml"]
    config = parse_config(text.encode(), "tattle.toml")
    arguments = build().parse_args(container()["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    files = [config.web.token_file, config.web.certificate, config.web.key, str(arguments.config)]
    assert all(str(Path(str(file)).parent) in mounts for file in files)
    assert {volume["name"] for volume in pod()["volumes"]} == set(mounts.values())
    assert {"/sys/fs/cgroup", "/sys/fs/bpf", "/var/lib/tattle", "/run/tattle"} <= mounts.keys()
    assert str(Path(sources.CRI[0]).parent) in mounts


def test_privileges_are_named_one_by_one() -> None:
    """Not privileged, nothing kept by default, each capability with its reason beside it."""
    security = container()["securityContext"]
    assert security["privileged"] is False
    assert security["capabilities"]["drop"] == ["ALL"]
    added = set(security["capabilities"]["add"])
    assert {one.name for one in LOADING} <= added
    assert added <= {one.name for one in Capability}
    text = (FOLDER / "tattle.yaml").read_text()
    assert all(re.search(rf"- {name} +# \w+", text) for name in added)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Tattle]:
    """Give a daemon to start in a cgroup of its own."""
    place, tattle = cgroup(f"pod{os.getpid()}"), Tattle(tmp_path)
    tattle.log = place
    yield tattle
    tattle.remove()
    place.rmdir()


def started(tattle: Tattle) -> subprocess.Popen[bytes]:
    """Start it as a pod would: the manifest's capabilities, a cgroup namespace, the hierarchy read-only."""
    added = container()["securityContext"]["capabilities"]["add"]
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in added)])
    inside = (
        'echo 0 >"$1/cgroup.procs" && top=$(dirname "$1") && shift && '
        'exec unshare --mount --cgroup sh -c \'mount --bind -o ro "$0" "$0" && exec "$@"\' "$top" "$@"'
    )
    limits = ["setpriv", "--inh-caps=-all", f"--bounding-set={kept}"]
    words = command("run", "--instance", tattle.instance, "--listen", f"127.0.0.1:{tattle.port}")
    with tattle.errors.open("wb") as errors:
        daemon = subprocess.Popen(
            ["sh", "-c", inside, "sh", str(tattle.log), *limits, *words],
            cwd=ROOT,
            stdout=errors,
            stderr=errors,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
        )
    deadline = time.monotonic() + PATIENCE
    while "hooks attached" not in tattle.errors.read_text():
        assert daemon.poll() is None, tattle.errors.read_text()
        assert time.monotonic() < deadline, tattle.errors.read_text()
        time.sleep(0.05)
    return daemon


def test_these_privileges_are_enough(node: Tattle) -> None:
    """The daemon starts with them and no others, and goes on after it was killed: pods are."""
    for end in (signal.SIGKILL, signal.SIGINT):
        daemon = started(node)
        assert {hook["attached"] for hook in node.ask("status")["hooks"]} == {True}
        daemon.send_signal(end)
        code = daemon.wait(PATIENCE)
    assert code == 0, node.errors.read_text()


def instructions() -> list[tuple[str, str]]:
    """Read the Containerfile: each instruction with its words, lines that go on put together."""
    text = (ROOT / "deploy" / "image" / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


def test_the_image_recipe_reads_well() -> None:
    """Known instructions only, a named release to start from, copies from a stage or the wheel."""
    read = instructions()
    known = {"FROM", "RUN", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in read} == known
    bases = [words for name, words in read if name == "FROM"]
    assert all(re.match(r"docker\.io/library/debian:trixie-slim( AS build)?\Z", base) for base in bases)
    stages = {base.split(" AS ")[1] for base in bases if " AS " in base}
    copies = [words for name, words in read if name == "COPY"]
    assert all(
        words.startswith("dist/tattle_ebpf-") or words.split()[0].removeprefix("--from=") in stages
        for words in copies
    )
    assert ("EXPOSE", str(container()["ports"][0]["containerPort"])) in read
    assert ("ENTRYPOINT", '["/opt/tattle/bin/tattle"]') in read
    assert all("--no-install-recommends" in words for _, words in read if "apt-get install" in words)
