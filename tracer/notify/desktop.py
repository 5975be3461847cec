"""Notices shown by the desktop: org.freedesktop.Notifications of the session's D-Bus.

Desktop Notifications Specification 1.2. Where the server reads markup, the characters that mean something
there are escaped: names are strangers'.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jeepney import DBusAddress, DBusErrorResponse, new_method_call
from jeepney.io.blocking import open_dbus_connection
from jeepney.wrappers import unwrap_msg

from tracer.errors import HostError

if TYPE_CHECKING:
    from jeepney import Message
    from jeepney.io.blocking import DBusConnection

    from tracer.notify.decisions import Key, Notice

_SERVER: Final = DBusAddress(
    "/org/freedesktop/Notifications", "org.freedesktop.Notifications", "org.freedesktop.Notifications"
)
_ANSWER_S: Final = 10.0  # the bus may have to start the server first
_NORMAL, _CRITICAL = 1, 2  # urgency levels of the specification
_DEFAULT: Final = -1  # how long it is shown: as the server likes
_ICON: Final = "security-medium"  # Icon Naming Specification


class Gone(Exception):  # noqa: N818 - it is no error: sessions end
    """The session's bus has ended, and the session with it."""


class Desktop:
    """The notification server of this session."""

    def __init__(self) -> None:
        """Connect to the session's bus; raises HostError where there is none."""
        self._shown: dict[Key, int] = {}
        try:
            self._bus: DBusConnection = open_dbus_connection(_address())
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise HostError(f"the session's D-Bus cannot be reached: {error}", _HINT) from None

    def fileno(self) -> int:
        """Return what is readable when the bus has something, its end included."""
        return int(self._bus.sock.fileno())

    def drain(self) -> None:
        """Read what servers say of closed notices, which is of no interest; raises Gone at the bus's end."""
        try:
            while True:
                self._bus.receive(timeout=0)
        except TimeoutError:
            return
        except OSError:
            raise Gone from None

    def show(self, notice: Notice) -> bool:
        """Show a notice; False: there is no server, or not yet. Raises Gone at the bus's end."""
        try:
            (able,) = self._ask(new_method_call(_SERVER, "GetCapabilities"))
            markup = "body-markup" in able
            body = html.escape(notice.body, quote=False) if markup else notice.body
            hints = {
                "urgency": ("y", _CRITICAL if notice.urgent else _NORMAL),
                "category": ("s", "network"),
                "desktop-entry": ("s", "tattle-notify"),
            }
            again = 0 if notice.key.about else self._shown.get(notice.key, 0)
            words: tuple[object, ...] = ("tattle", again, _ICON, notice.summary, body, [], hints, _DEFAULT)
            call = new_method_call(_SERVER, "Notify", "susssasa{sv}i", words)
            self._shown[notice.key] = self._ask(call)[0]
        except (DBusErrorResponse, TimeoutError):
            return False
        except OSError:
            raise Gone from None
        return True

    def _ask(self, call: Message) -> tuple[Any, ...]:
        answer: tuple[Any, ...] = unwrap_msg(self._bus.send_and_get_reply(call, timeout=_ANSWER_S))
        return answer

    def close(self) -> None:
        """Leave the bus."""
        self._bus.close()


_HINT: Final = "run it in a desktop session, as the user of the session, without sudo"


def _address() -> str:
    """Return the session bus's address: as the session says, else where systemd's is."""
    if told := os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return told
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and (path := Path(runtime) / "bus").exists():
        return f"unix:path={path}"
    raise HostError("no session bus: DBUS_SESSION_BUS_ADDRESS is not set", _HINT)
