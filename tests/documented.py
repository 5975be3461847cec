"""The commands that the pages of this repository show, and the results that the README quotes.

`make docs` puts the latest results into the README: the tables of tests/study, tests/vm and tests/bench.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {
    "study": "tests/study/RESULTS.md",
    "vm": "tests/vm/RESULTS.md",
    "engines": "tests/bench/results/ENGINES.md",
    "bench": "tests/bench/results/LATEST.md",
}
QUOTED = {"bench": ("daemon", "promises"), "study": ("Does it phone home?",)}
"""Of which not all tables are quoted."""
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("tests/*/README.md")]


def name(page: Path) -> str:
    """Name a page by its place in the tree."""
    return str(page.relative_to(ROOT))


def said(page: Path) -> list[tuple[str, ...]]:
    """Give every command that a page shows, without sudo: in shell blocks, transcripts and in the text.

    In a transcript the lines after `$ ` are commands, the others are what they print.
    """
    text = page.read_text()
    lines: list[str] = []
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        shown = block.splitlines()
        lines += [line.removeprefix("$ ") for line in shown if line.startswith("$ ") or "$ " not in block]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    split = (shlex.split(line, comments=True) for line in lines if line.count("'") % 2 == 0)
    bare = (tuple(words[1:] if words[:1] == ["sudo"] else words) for words in split)
    return [words for words in bare if words]


def shown() -> list[tuple[str, ...]]:
    """Give every command of all pages, each once."""
    return sorted({words for page in PAGES for words in said(page)})


def is_tattle(words: tuple[str, ...]) -> bool:
    """Tell whether it is a command of tattle's."""
    return words[0] == "tattle" or words[0].endswith("bin/tattle")


def arguments(words: tuple[str, ...]) -> list[str]:
    """Give a command's own arguments, up to where the shell takes over: a pipe, a redirection."""
    end = next((at for at, word in enumerate(words) if word[0] in "|>&"), len(words))
    return list(words[1:end])


def chosen(mark: str, results: str) -> str:
    """Leave out the tables that are not quoted, and say where they stand."""
    if mark not in QUOTED:
        return results
    head, *tables = re.split(r"^(?=## )", results, flags=re.MULTILINE)
    kept = [table for table in tables if table.partition("\n")[0].removeprefix("## ") in QUOTED[mark]]
    page = Path(RESULTS[mark]).name
    return f"{head.rstrip()}  \nAll tables: [{page}]({page})\n\n{''.join(kept)}"


def quote(readme: str, mark: str, results: str) -> str:
    """Replace what stands between the two comments of `mark` by the tables in `results`.

    Headings become text, and links lead from here.
    """
    here = Path(RESULTS[mark]).parent
    text = re.sub(r"\]\((?![a-z]+:|/|#)", f"]({here}/", chosen(mark, results))
    lines = [re.sub(r"^#+ (.*)", r"**\1**", line) for line in text.splitlines()[1:]]
    body = "\n".join(lines).strip()
    pattern = rf"<!-- {mark} -->.*?<!-- /{mark} -->"
    whole = f"<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->"
    return re.sub(pattern, lambda _: whole, readme, flags=re.DOTALL)


def main() -> None:
    """Quote the results that there are."""
    page = ROOT / "README.md"
    for mark, name_of_results in RESULTS.items():
        source = ROOT / name_of_results
        if source.exists():
            page.write_text(quote(page.read_text(), mark, source.read_text()))


if __name__ == "__main__":
    main()
