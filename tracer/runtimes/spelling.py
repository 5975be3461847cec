"""How runtimes read a switch's value: each in its own way, and not as people expect; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tracer.runtimes.profiles import Spelling

OFF: Final = frozenset({"0", "false", "no", "off"})


class _Reading(NamedTuple):
    """How a runtime takes a text for true; `folded`: whatever its case, `bare`: without blanks and quotes."""

    true: frozenset[str] = frozenset()
    false: frozenset[str] | None = None  # all else is true
    folded: bool = False
    bare: bool = False


_READINGS: Final = {
    "any": _Reading(frozenset({"1", "true", "yes", "on"}), folded=True, bare=True),
    # Ollama, envconfig.Var and BoolWithDefault over Go's ParseBool: what that refuses counts as true
    "go, else true": _Reading(false=frozenset({"", "0", "f", "F", "FALSE", "false", "False"}), bare=True),
    # Open WebUI, env.py: os.getenv(…).lower() == "true"
    "python": _Reading(frozenset({"true"}), folded=True),
    # huggingface_hub, constants.py: ENV_VARS_TRUE_VALUES
    "huggingface": _Reading(frozenset({"1", "on", "yes", "true"}), folded=True),
    # llama.cpp, common/arg.cpp: is_truthy
    "llama.cpp": _Reading(frozenset({"on", "enabled", "true", "1"})),
}


def is_private(value: str, private: str, spelling: Spelling = "any") -> bool:
    """Tell whether a value is the private one, as a runtime of this spelling reads it.

    An option without a value (`private` empty) is set by a variable that is true.
    """
    private = private or "1"
    reading = _READINGS.get(spelling)
    if reading is None or not (
        _is_true(private, reading) or private in OFF
    ):  # `exact`, or neither yes nor no
        return value == private
    if spelling == "any" and private in OFF:
        return value.strip().lower() in OFF
    return _is_true(value, reading) is (private not in OFF)


def _is_true(value: str, reading: _Reading) -> bool:
    text = value.strip().strip("\"'") if reading.bare else value
    text = text.lower() if reading.folded else text
    return text in reading.true if reading.false is None else text not in reading.false
