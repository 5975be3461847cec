"""Where everything of the miniature internet is: paths, namespaces, addresses, names. Standard library only.

Addresses are those set aside for documentation (RFC 5737, RFC 3849): nothing real can be meant.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = Path(__file__).resolve().parent
TOP: Final = PACKAGE.parents[2]
CACHE: Final = Path(os.environ.get("TATTLE_WORLD_DIR") or TOP / ".cache/world").absolute()
PYTHON: Final = CACHE / "venv/bin/python"
MODEL: Final = CACHE / "gemma-3-270m-q4_k_m.gguf"

OLLAMA: Final = "ollama.service"  # cgroups below /world, named as the units of these
LLAMA: Final = "llama-server.service"
HOST: Final = "world-host"  # where the programs run that tattle watches
NET: Final = "world-net"  # the internet
HOST_LINK: Final = "world-h0"
NET_LINK: Final = "world-n0"
HOST_V4: Final = "198.51.100.2"
HOST_V6: Final = "2001:db8:1::2"
NET_V4: Final = "198.51.100.1"
NET_V6: Final = "2001:db8:1::1"
DNS_V4: Final = "198.51.100.53"
DNS_V6: Final = "2001:db8:1::53"


@cache
def table() -> dict[str, Any]:
    """Return names.json: {"ttl", "names": {name: {"A", "AAAA", "CNAME"}}, "unserved": [address]}."""
    loaded: dict[str, Any] = json.loads((PACKAGE / "names.json").read_bytes())
    return loaded


def addresses(name: str | None = None) -> list[str]:
    """Return the addresses that are served, of NAME (through its CNAME) or of all names, sorted."""
    names = table()["names"]
    entries = [names[names[name].get("CNAME", name)]] if name else names.values()
    found = {address for entry in entries for kind in ("A", "AAAA") for address in entry.get(kind, [])}
    return sorted(found - set(table()["unserved"]))
