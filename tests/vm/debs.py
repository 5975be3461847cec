"""Fetch Debian packages of any suite through apt, without touching the host's own apt.

Everything apt would write (lists, caches, sources, settings) lives below one directory of ours. The mirror
and the proxy are the host's: whoever configured this machine decided where packages come from.
"""

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.mirror import host_mirror

KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
# Settings are read after the host's: what it hooks onto updates (desktop catalogues, cleaners) must not run.
PRIVATE_CONF = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::SourceList "{home}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{home}/state";
Dir::State::status "/dev/null";
Dir::Cache "{home}/cache";
"""


class Member(NamedTuple):
    """A file of a package with its `data`, or a symbolic link to `link`; `mode` has the permissions only."""

    path: str
    mode: int
    data: bytes
    link: str


class Suite:
    """One suite of the mirror (`bookworm-backports`) with a private apt below `home`."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home / name
        self._conf = self.home / "apt.conf"
        self._updated = False

    def download(self, packages: list[str]) -> list[Path]:
        """Give the .deb files of `packages`, newest of this suite, in that order."""
        self._update()
        debs = self.home / "debs"
        debs.mkdir(exist_ok=True)
        self._apt("apt-get", "download", *packages, cwd=debs)
        return [
            max(debs.glob(f"{package}_*.deb"), key=lambda deb: deb.stat().st_mtime) for package in packages
        ]

    def depends(self, package: str, pattern: str) -> list[str]:
        """Give what `package` depends on as far as its name matches `pattern` wholly."""
        self._update()
        text = self._apt("apt-cache", "depends", "--important", package)
        names = re.findall(r"Depends: (\S+)", text)
        return [name for name in names if re.fullmatch(pattern, name)]

    def _update(self) -> None:
        if self._updated:
            return
        keyring = next((key for key in KEYRINGS if Path(key).exists()), KEYRINGS[0])
        (self.home / "state/lists/partial").mkdir(parents=True, exist_ok=True)
        (self.home / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        source = f"deb [arch=amd64 signed-by={keyring}] {host_mirror()} {self.name} main\n"
        (self.home / "sources.list").write_text(source)
        self._conf.write_text(PRIVATE_CONF.format(home=self.home))
        self._apt("apt-get", "update", "-qq")
        self._updated = True

    def _apt(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        command = [tool, "-c", str(self._conf), *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise RuntimeError(f"suite {self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout


def members(deb: Path) -> Iterator[Member]:
    """Yield the files and symbolic links in `deb`, paths without a leading slash."""
    unpacked = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        for entry in archive:
            path = entry.name.removeprefix("./").rstrip("/")
            content = archive.extractfile(entry) if entry.isfile() else None
            if content:
                yield Member(path, entry.mode, content.read(), "")
            elif entry.issym():
                yield Member(path, 0o777, b"", entry.linkname)
