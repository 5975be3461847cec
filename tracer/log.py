"""Logging of the daemon and of all commands: structlog, rendered for people, as JSON, or for the journal."""

from __future__ import annotations

import logging
import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING, Final

# What structlog loads and nothing here uses: rich for coloured tracebacks (5.6 MiB), asyncio for loggers that
# are awaited (2.0 MiB). None makes `import rich` fail, upon which structlog does without.
_STAND_INS: Final = {"rich": None, "asyncio": ModuleType("asyncio")}
_absent = [name for name in _STAND_INS if name not in sys.modules]
sys.modules.update({name: _STAND_INS[name] for name in _absent})  # type: ignore[misc]
import structlog  # noqa: E402 - without them

for _name in _absent:
    del sys.modules[_name]

from tracer.model.jsonlines import encode  # noqa: E402 - likewise
from tracer.model.records import timestamp  # noqa: E402
from tracer.model.text import logline  # noqa: E402

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

TEXT: Final = "text"
JSON: Final = "json"
FORMATS: Final = (TEXT, JSON)


def configure(form: str, *, debug: bool) -> None:
    """Have all loggers write to standard error from now on, a line a record; `form` is one of FORMATS."""
    structlog.configure(
        processors=processors(_as_json if form == JSON else _as_text),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def processors(last: Processor) -> list[Processor]:
    """Return the chain that every record passes, with what renders or sends it at its end."""
    return [structlog.processors.add_log_level, structlog.processors.format_exc_info, last]


def _as_text(_: WrappedLogger, __: str, record: EventDict) -> str:
    return f"tattle: {record['level']}: {logline(record)}"


def _as_json(_: WrappedLogger, __: str, record: EventDict) -> str:
    shown = {key: value if isinstance(value, int) else str(value) for key, value in record.items()}
    return encode({"ts": timestamp(time.time_ns()), **shown}).decode()
