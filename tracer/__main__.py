"""The edge to the shell: errors become two lines and an exit code, and nothing else happens here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tracer import log  # noqa: F401 - before anything else loads structlog
from tracer.cli.command import hush
from tracer.cli.parser import run
from tracer.errors import TattleError
from tracer.model.text import escape


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. A traceback is shown with --debug only."""
    given = sys.argv[1:] if arguments is None else arguments
    _open_closed()
    try:
        code = run(given)
        sys.stdout.flush()
    except TattleError as error:
        if "--debug" in given:
            raise
        sys.stderr.write(f"tattle: {_one_line(error.message)}\n")
        if error.hint:
            sys.stderr.write(f"tattle: to mend it: {_one_line(error.hint)}\n")
        return error.exit_code
    except BrokenPipeError:
        hush()  # the reader of our output left, as `head` does
        return 0
    except KeyboardInterrupt:
        return 0
    return code


def _open_closed() -> None:
    """Give the streams that were closed when we began (`>&-`) a place to write to: nobody reads them."""
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")


def _one_line(text: str) -> str:
    return "; ".join(escape(line) for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
