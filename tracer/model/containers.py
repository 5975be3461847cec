r"""Containers as people name them, and as cgroup paths show them: pure, no engine is asked here.

A path tells a container's id (LXC and nspawn: its name), never its name in an engine. Sources of the forms:
moby daemon/oci_linux.go and runc's drivers (docker-ID.scope, docker/ID); libpod container_internal_linux.go
(libpod-ID.scope, libpod-payload-ID of `--cgroups=split`, libpod_parent/libpod-ID; the supervisor's
libpod-conmon-ID is no container); containerd's CRI plugin (cri-containerd-ID.scope, SLICE:cri-containerd:ID
with the cgroupfs driver); CRI-O (crio-ID.scope, crio-ID; crio-conmon-ID is none); LXC (lxc.payload.NAME,
lxc/NAME); systemd-machined (machine-NAME.scope, systemd-nspawn@NAME.service).
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEX: Final = r"(?P<id>[0-9a-f]{64})"
_TAG: Final = re.compile(r"(?::[^/:@]*)?(?:@.*)?\Z")  # REGISTRY:PORT/NAME:TAG@DIGEST
_SHORT_ID: Final = re.compile(r"[0-9a-f]{12,64}\Z")  # 12 digits are what `docker ps` shows
_PART: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_.*-]{0,252}\Z")  # moby names.go; RFC 1123 2.1 for pods
_PARTS_MAX: Final = 3  # NAMESPACE/POD/CONTAINER
_USER: Final = re.compile(r"/user-(\d{1,10})\.slice/")
_SYSTEMD_ESCAPE: Final = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5)


class Family(StrEnum):
    """Which kind of engine makes cgroups of such a name; ANY: the name does not tell."""

    DOCKER = "docker"
    PODMAN = "podman"
    CRI = "cri"
    MACHINE = "machine"
    ANY = "any"


_FORMS: Final = (
    (Family.DOCKER, re.compile(rf"docker-{_HEX}\.scope\Z")),
    (Family.PODMAN, re.compile(rf"libpod-(?:payload-)?{_HEX}(?:\.scope)?\Z")),
    (Family.CRI, re.compile(rf"(?:cri-containerd|crio)-{_HEX}(?:\.scope)?\Z")),
    (Family.CRI, re.compile(rf".+:cri-containerd:{_HEX}\Z")),
    (Family.ANY, re.compile(rf"(?:nerdctl-)?{_HEX}(?:\.scope)?\Z")),
    (Family.MACHINE, re.compile(r"lxc\.payload\.(?P<id>.+)\Z")),
    (Family.MACHINE, re.compile(r"machine-(?P<id>.+)\.scope\Z")),
    (Family.MACHINE, re.compile(r"systemd-nspawn@(?P<id>.+)\.service\Z")),
)
# What the directory above tells of a bare id. What lies bare in libpod_parent is a pod, and no container.
_ABOVE: Final = {"docker": Family.DOCKER, "lxc": Family.MACHINE}
_PODS_OF_CRI: Final = re.compile(r"(?:kubepods[^/]*|pod(?:[0-9a-f-]{36}|[0-9a-f]{32}))\Z")


_CANDIDATE: Final = re.compile(rf"(?:.*(?<!n)[-:])?{_HEX}(?:\.scope)?\Z")


def candidate(part: str) -> str | None:
    """Return the id in the last part of a path that bpf/cgroup.bpf.h takes for a container's."""
    found = _CANDIDATE.match(part)
    return found["id"] if found else None


class Place(NamedTuple):
    """A container's cgroup: its path, what kind of engine made it, its id (or name), and the owner's uid."""

    path: str
    family: Family
    id: str
    owner: int

    @property
    def named(self) -> bool:
        """Whether the path itself tells the name."""
        return self.family is Family.MACHINE


class Container(NamedTuple):
    """What an engine tells of a container.

    `name` is its name, NAMESPACE/POD/CONTAINER in a pod; `aliases` are others, such as PROJECT/SERVICE.
    `images` are the names that its image goes by, without tags.
    """

    id: str
    name: str
    images: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def places(path: str) -> Iterator[Place]:
    """Yield the containers that a cgroup path names, the innermost first."""
    found = _USER.search(path)
    owner = int(found[1]) if found else 0
    parts = path.split("/")
    for at in range(len(parts) - 1, 0, -1):
        form = _form(parts[at], parts[at - 1])
        if form is not None:
            yield Place("/".join(parts[: at + 1]), form[0], form[1], owner)


def _form(part: str, above: str) -> tuple[Family, str] | None:
    for family, form in _FORMS:
        found = form.match(part)
        if found is None:
            continue
        if family is Family.ANY:
            return None if above == "libpod_parent" else (_family(above), found["id"])
        return family, _unescaped(found["id"]) if family is Family.MACHINE else found["id"]
    return (Family.MACHINE, part) if above == "lxc" and part else None


def _family(above: str) -> Family:
    return Family.CRI if _PODS_OF_CRI.match(above) else _ABOVE.get(above, Family.ANY)


def _unescaped(text: str) -> str:
    return _SYSTEMD_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def plain_image(image: str) -> str:
    """Return an image's name without tag and digest."""
    return _TAG.sub("", image)


class ContainerPattern(NamedTuple):
    """What stands behind `container:`; `*` is any text within a part."""

    text: str

    @classmethod
    def parse(cls, text: str) -> ContainerPattern | None:
        """Take NAME, PROJECT/SERVICE or NAMESPACE/POD/CONTAINER; None: it is none of these."""
        parts = text.split("/")
        return cls(text) if len(parts) <= _PARTS_MAX and all(map(_PART.match, parts)) else None

    def matches(self, container: Container) -> bool:
        """Tell whether a container is meant, by one of its names or by its id, which may be shortened."""
        if _SHORT_ID.match(self.text) and container.id.startswith(self.text):
            return True
        return any(map(_compiled(self.text).match, (container.name, *container.aliases)))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))) + r"\Z")
