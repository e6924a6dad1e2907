"""Fails unless a wheel holds every file of the package at HEAD, and nothing else: ``check_wheel.py WHEEL``."""

from __future__ import annotations

import subprocess
import sys
import zipfile


def problems(wheel: str) -> list[str]:
    """One line for each file that is missing or too much."""
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    info = next(name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    listing = ["git", "ls-tree", "-rz", "--name-only", "HEAD", "equiv", "models"]
    output = subprocess.run(listing, check=True, capture_output=True, text=True)
    tracked = {"equiv/" + name if name.startswith("models/") else name for name in output.stdout.split("\0") if name}
    needed = {"equiv/__init__.py", "equiv/picture.png", "equiv/py.typed"}
    needed |= {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"}
    surplus = {name for name in files - tracked if not name.startswith(info + "/")}
    return [
        *(f"not in the wheel: {name}" for name in sorted((tracked | needed) - files)),
        *(f"in the wheel, but not in HEAD: {name}" for name in sorted(surplus)),
    ]


if __name__ == "__main__":
    sys.exit("\n".join(problems(sys.argv[1])) or 0)
