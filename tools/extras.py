"""What each extra of pyproject.toml weighs, installed, with everything that it needs.

    python tools/extras.py results/extras.json

Read from the environment that it runs in; an extra of which a part is missing is left out.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "srtool"


def needed(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> None:
    """Add a distribution and, through all its requirements, what it needs. PackageNotFoundError
    where a part is not installed."""
    item = distribution(name)
    found[canonicalize_name(item.name)] = item
    for line in item.requires or ():
        requirement = Requirement(line)
        asked = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, asked)):
            continue
        if canonicalize_name(requirement.name) not in found or requirement.extras:
            needed(requirement.name, frozenset(requirement.extras), found)


def size(item: Distribution) -> int:
    """Bytes of its files, without the caches that Python makes of them."""
    paths = (Path(str(file.locate())) for file in item.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())


def weights() -> dict[str, int]:
    """Megabytes of each extra, the base among it; "" is the base alone."""
    found = {}
    for extra in ["", *(distribution(PACKAGE).metadata.get_all("Provides-Extra") or ())]:
        parts: dict[str, Distribution] = {}
        try:
            needed(PACKAGE, frozenset([extra] if extra else []), parts)
        except PackageNotFoundError:
            continue
        found[extra] = round(sum(map(size, parts.values())) / 1e6)
    return found


if __name__ == "__main__":
    facts = {
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "megabytes": weights(),
    }
    Path(sys.argv[1]).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
