"""Fail where a wheel holds more than the import package needs, or less."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path, PurePosixPath

NEEDED_SUFFIXES = {".py", ".pyi", ".so", ".pyd", ".typed", ".css", ".html", ".js", ".LICENSE"}
FOLDERS = {
    "fastbn": "fastbn",
    "benchmarks": "fastbn/bench",
    "export": "fastbn/export",
    "models": "fastbn/models",
}
NOT_SHIPPED = {"suites"}  # run by pytest, from a checkout


def complaints(names: list[str], checkout: Path) -> list[str]:
    """Return what is wrong with a wheel of these files, built from this checkout."""
    found = []
    files = [name for name in names if not name.endswith("/")]  # auditwheel lists folders, too
    present = {name for name in files if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    for name in sorted(present):
        path = PurePosixPath(name)
        if path.parts[0] == "fastbn.libs" or ".dylibs" in path.parts:
            continue  # what auditwheel, delvewheel and delocate bundle
        if path.parts[0] != "fastbn":
            found.append(f"{name}: not in the package fastbn")
        elif path.suffix not in NEEDED_SUFFIXES or {"tests", *NOT_SHIPPED} & set(path.parts):
            found.append(f"{name}: nothing that is needed to run")
    for folder, target in FOLDERS.items():
        for source in sorted((checkout / folder).rglob("*")):
            if NOT_SHIPPED & set(source.parts):
                continue
            name = f"{target}/{source.relative_to(checkout / folder).as_posix()}"
            if source.suffix in {".py", ".pyi", ".typed"} and name not in present:
                found.append(f"{name}: missing")
            if source.suffix == ".pyx":
                path = PurePosixPath(name)  # a module of its room's name, or of its own
                module = path.parent if path.parent.name == path.stem else path.with_suffix("")
                built = [n for n in present if n.startswith(f"{module}.")]
                if not any(n.endswith((".so", ".pyd")) for n in built):
                    found.append(f"{module}.so: missing")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("LICENSE: missing")
    return found


def main(wheel: str) -> int:
    """Print the complaints about a wheel; return the exit code."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    found = complaints(names, Path(__file__).parents[1])
    for line in found:
        print(line)
    print(f"{Path(wheel).name}: {len(names)} files, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
