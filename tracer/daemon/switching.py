"""The page's switch in the daemon: who may, what does it, who is told."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import structlog

from exporters.http.rights import LINK_S, Rights
from exporters.http.switch import Hand, Switch
from tracer.host.network import user_of

if TYPE_CHECKING:
    from exporters.http.requests import Done
    from tracer.daemon.helper import Helper
    from tracer.model.records import Json

log = structlog.get_logger("tattle")


class Switching:
    """Links for root, rights for browsers, and the helper that does what they ask."""

    def __init__(self, helper: Helper, port: int, *, local: bool, secure: bool) -> None:
        """`port` is the page's; `local`: only this machine can ask there; `secure`: by TLS."""
        self._rights = Rights()
        self._local = local
        user = functools.partial(user_of, server=port) if local else _unknown
        self.switch = Switch(self._rights, Hand(helper.ask, _tell, user), secure=secure)

    def open(self, question: Json, page: str) -> Json:
        """Return a one-time link to the page, for the browser of the user that the question names."""
        owner, uid = str(question.get("owner")), question.get("uid")
        bound = uid if self._local and isinstance(uid, int) else None
        code = self._rights.link(owner, bound)
        log.info("a link to the page's switch was made", who=owner)
        return {"link": f"{page}#switch={code}", "seconds": LINK_S, "uid": bound}


def _unknown(_address: str, _port: int) -> None:
    """Return None: whose a connection from another host is, that host knows."""


def _tell(who: str, what: str, done: Done) -> None:
    """Write into the audit trail what was changed, and who did it."""
    if done.error is None:
        log.info("changed by the page", who=who, what=what)
    else:
        log.warning("not changed, though the page asked for it", who=who, what=what, error=done.error)
