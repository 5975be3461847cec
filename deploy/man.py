"""Man pages out of the command line itself, so that they cannot say anything else.

`python deploy/man.py FOLDER` writes tattle.8, a page for each command, and tattle.toml.5 out of the example.
The roff is man(7)'s; `tests/deploy/test_man.py` has groff read every page.
"""

# ruff: noqa: SLF001 - argparse shows its actions nowhere else

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer import __version__
from tracer.cli.parser import build

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD: Final = re.compile(r"^(\w[\w ]*):\n", re.MULTILINE)  # examples:, files:, exit codes:


def quoted(text: str) -> str:
    """Give text that roff shows as it stands: no line is a request, a hyphen can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def head(name: str, section: int, says: str) -> Iterator[str]:
    """Begin a page: title, name, and what apropos(1) finds."""
    yield f'.TH {name.upper()} {section} "" "tattle {__version__}" "System Manager\'s Manual"'
    yield f".SH NAME\n{quoted(name)} \\- {quoted(says)}"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give each option and operand with what it does."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = f" {value}" if action.nargs != 0 else ""
        names = ", ".join(f"{name}{takes}" for name in action.option_strings) or value
        said = (action.help or "").replace("%(prog)s", parser.prog).replace("%%", "%")
        yield f".TP\n.B {quoted(names)}\n{quoted(said)}"


def epilog(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give the epilog's parts as sections, laid out as they are."""
    parts = HEAD.split(parser.epilog or "")
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield f".SH {title.upper()}\n.nf\n{quoted(textwrap.dedent(body).strip())}\n.fi"


def page(name: str, parser: argparse.ArgumentParser, says: str) -> str:
    """Give the page of a command."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = [
        *head(name, 8, says),
        f".SH SYNOPSIS\n{quoted(usage)}",
        f".SH DESCRIPTION\n{quoted(parser.description or says)}",
        ".SH OPTIONS",
        *options(parser),
        *epilog(parser),
    ]
    return "\n".join(lines) + "\n"


def configuration(example: str) -> str:
    """Give tattle.toml(5): the example is its own description."""
    lines = [
        *head("tattle.toml", 5, "the configuration of tattle"),
        ".SH DESCRIPTION\n.nf",
        quoted(example.strip()),
        ".fi\n.SH SEE ALSO\n.BR tattle (8)",
    ]
    return "\n".join(lines) + "\n"


def pages(example: str) -> dict[str, str]:
    """Give every page by its file's name."""
    parser = build()
    (choices,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    summaries = {action.dest: action.help or "" for action in choices._choices_actions}
    listed = [f".TP\n.BR tattle\\-{name} (8)\n{quoted(says)}" for name, says in summaries.items()]
    first = page("tattle", parser, "tells on programs that phone home")
    commands = "\n".join([".SH COMMANDS", *listed, ".SH SEE ALSO\n.BR tattle.toml (5)"])
    found = {"tattle.8": f"{first}{commands}\n", "tattle.toml.5": configuration(example)}
    for name, one in choices.choices.items():
        text = page(f"tattle-{name}", one, summaries[name])
        found[f"tattle-{name}.8"] = text + ".SH SEE ALSO\n.BR tattle (8),\n.BR tattle.toml (5)\n"
    return found


def main() -> None:
    """Write the pages into man5/ and man8/ of a folder."""
    folder = Path(sys.argv[1])
    example = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("tattle.toml")  # noqa: PLR2004
    for name, text in pages(example.read_text()).items():
        path = folder / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
