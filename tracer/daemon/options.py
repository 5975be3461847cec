"""What the command line says of the daemon, laid over the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from exporters.http import auth
from tracer import config
from tracer.targets.finder import parse

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """What the command line says; it wins over the configuration. None and empty: says nothing."""

    instance: str = "tattle"
    config_file: Path | None = None
    listen: str | None = None
    log_file: str | None = None
    targets: tuple[str, ...] = ()
    loopback: bool = False
    allow_missing: frozenset[str] = field(default_factory=frozenset)
    object_path: Path | None = None
    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    insecure: bool = False
    engine: str | None = None

    def effective(self) -> config.Config:
        """Read the configuration and lay the command line over it; raises ConfigError or UsageError."""
        found = config.load(self.config_file)
        changes: dict[str, Any] = {"targets": tuple(dict.fromkeys((*found.watched, *self.targets)))}
        if self.listen is not None:
            config.address(self.listen)
            changes["listen"] = self.listen
        if self.log_file is not None:
            changes["log_file"] = self.log_file
        if self.engine is not None:
            changes["engine"] = self.engine
        if self.loopback:
            changes["observe"] = config.Observe(loopback=True)
        changes["web"] = self._web(found.web)
        for target in self.targets:
            parse(target)
        settings = msgspec.structs.replace(found, **changes)
        auth.check(config.address(settings.listen)[0], settings.listen, access(settings))
        return settings

    def _web(self, found: config.Web) -> config.Web:
        given = {name: getattr(self, name) for name in ("token_file", "certificate", "key", "insecure")}
        return msgspec.structs.replace(found, **{name: value for name, value in given.items() if value})


def access(settings: config.Config) -> auth.Access:
    """Give who may ask over HTTP, as exporters say it."""
    return auth.Access(**msgspec.structs.asdict(settings.web))
