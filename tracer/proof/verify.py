"""`tattle verify`: does a report hold together, is it as it was written, and whose key signed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

import msgspec

from tracer import __version__
from tracer.bpf.hooks import HOOKS
from tracer.errors import UsageError
from tracer.model.text import escape
from tracer.proof import canonical, evidence

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

_MOST: Final = 256 << 20  # bytes: no report is larger, and a device is endless
_MEND: Final = "give the JSON file that tattle prove --report wrote"
_CUT: Final = 300  # characters of a finding


class _Window(TypedDict):
    start: str
    end: str


class _Flow(TypedDict):
    direction: str
    scope: str
    phase: str
    proto: str | None
    remote_addr: str | None
    remote_port: int | None
    attempts: int
    established: int
    denied: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    payload_out: int


class _Hook(TypedDict):
    hook: str
    program: str
    attached: bool
    link_id: int
    link_id_before: int
    program_id: int
    program_id_before: int


class _Map(TypedDict):
    map: str
    entries: int
    max_entries: int
    full: bool


class _Unseen(TypedDict):
    pid: int
    comm: str
    what: str


class _Socket(TypedDict):
    pid: int
    comm: str
    remote_addr: str | None
    foreign: bool


class _Tool(TypedDict):
    version: str
    engine: NotRequired[str]
    object_sha256: str
    files_sha256: str


class _Report(TypedDict):
    """The keys that are looked at; a report has more."""

    format: int
    verdict: str
    reasons: list[str]
    window: _Window
    command: list[str] | None
    exit_code: int | None
    target: str | None
    flows: list[_Flow]
    totals: dict[str, dict[str, int]]
    accepted: dict[str, dict[str, int]]
    phases: dict[str, dict[str, int]]
    keep_alives: dict[str, int]
    preexisting_sockets: list[_Socket]
    unseen: list[_Unseen]
    hooks: list[_Hook]
    maps: list[_Map]
    losses: dict[str, int]
    limits: list[str]
    tool: _Tool
    kernel: str
    sha256: str
    signature: dict[str, str] | None


@dataclass(frozen=True)
class Finding:
    """What was found of a report: `wrong` is empty where all is well."""

    report: Json
    wrong: tuple[str, ...]
    signer: str | None
    known: bool


def read(path: Path) -> Json:
    """Read a report; UsageError where the file holds none."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST)
    except OSError as error:
        raise UsageError(f"{escape(str(path))} cannot be read: {error.strerror}", _MEND) from None
    try:
        document = canonical.loads(raw)
    except ValueError as error:
        raise UsageError(f"{escape(str(path))} is no report: {escape(str(error))}", _MEND) from None
    if not isinstance(document, dict) or not {"verdict", "window"} & document.keys():
        raise UsageError(f"{escape(str(path))} is no report of tattle prove", _MEND)
    _require_format(path, document)
    return document


def _require_format(path: Path, report: Json) -> None:
    """Raise UsageError for a report of another format: what it lacks would read as contradictions."""
    given = report.get("format")
    if not isinstance(given, int) or given == evidence.FORMAT:
        return
    tool = report.get("tool")
    writer = escape(str(tool.get("version")), _CUT) if isinstance(tool, dict) else "unknown"
    older = f"verify it with the tattle that wrote it (version {writer}), or prove anew"
    raise UsageError(
        f"{escape(str(path))} is a report of format {given}; this version verifies format {evidence.FORMAT}",
        older if given < evidence.FORMAT else f"verify it with the tattle that wrote it (version {writer})",
    )


def examine(report: Json, trust: list[str]) -> Finding:
    """Find all that is wrong with a report; `trust` are fingerprints or key files, if there are any."""
    if wrong := _misshapen(report):
        return Finding(report, (wrong,), None, known=False)
    wrongs = (
        [] if _intact(report) else ["its digest does not fit: something was changed after it was written"]
    )
    wrongs += evidence.contradictions(report, _hooks(report))
    signer, known, unsigned = _signer(report, trust)
    wrongs += unsigned
    return Finding(report, tuple(escape(wrong, _CUT) for wrong in wrongs), signer, known)


def _hooks(report: Json) -> list[str]:
    """Give the hooks that have to be there: all of this version's; of another one's, those of packets."""
    if report["tool"]["version"] == __version__:
        return [spec.hook for spec in HOOKS]
    return ["ingress", "egress"]


def _misshapen(report: Json) -> str | None:
    try:
        msgspec.convert(report, _Report)
    except msgspec.ValidationError as error:
        return escape(f"it has not the form of a report: {error}", _CUT)
    if report["format"] != evidence.FORMAT:
        return f"it is of format {report['format']}, which this version does not know"
    return None


def _intact(report: Json) -> bool:
    try:
        return canonical.intact(report)
    except ValueError:  # a text in it that has no bytes: nothing that tattle wrote
        return False


def _signer(report: Json, trust: list[str]) -> tuple[str | None, bool, list[str]]:
    """Give whose key signed, whether that key is trusted, and what is wrong with it."""
    if report[canonical.SIGNATURE] is None and not trust:
        return None, False, []
    from tracer.proof import signing  # noqa: PLC0415 - the library is for those who sign

    trusted = signing.trusted(trust)
    if report[canonical.SIGNATURE] is None:
        return None, False, ["it is not signed"]
    try:
        signer = signing.signer(report)
    except ValueError as error:
        return None, False, [str(error)]
    if trust and signer not in trusted:
        return signer, False, [f"it is signed by {signer}, which is no key that --trust names"]
    return signer, signer in trusted, []
