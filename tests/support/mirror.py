"""Where this host gets its Debian packages from: whoever configured it has decided that."""

import os
import re
from pathlib import Path

HOST_APT = Path("/etc/apt")


def host_mirror(apt: Path = HOST_APT) -> str:
    """Give the URI of the Debian mirror that the host itself uses, e.g. http://mirror.example/debian.

    DEBIAN_MIRROR in the environment goes first: hosts of other distributions have none.
    """
    if named := os.environ.get("DEBIAN_MIRROR"):
        return named
    for source in sorted([*apt.glob("sources.list"), *apt.glob("sources.list.d/*")]):
        for uri in re.findall(r"^(?!\s*#).*?(\S+://\S+)", source.read_text(), flags=re.MULTILINE):
            if uri.rstrip("/").rpartition("/")[2] == "debian":
                return uri.rstrip("/")
    raise LookupError(
        f"no Debian mirror (a URI that ends in /debian) in {apt}/sources.list*: set DEBIAN_MIRROR"
    )
