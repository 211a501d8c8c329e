"""`make wheelhouse`: downloads all that the images install, so that they can be built where there is no network.

Wheels for other machines too: `make wheelhouse MACHINE=aarch64 PYTHON_VERSION=3.10`. What is there already is kept,
what the locks no longer name goes.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OLDEST_GLIBC, NEWEST_GLIBC = 17, 28
TARGETS = {"control": ("build", "control"), "stage": ("build", "stage", "torch")}


def download(lock: Path, folder: Path, python: str, machine: str, indexes: list[list[str]]) -> None:
    """Fetch what `lock` names from the first of `indexes` that has it all. Raises `SystemExit` with pip's words."""
    where = [f"--python-version={python}", "--implementation=cp", "--only-binary=:all:", "--no-deps"]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    where += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    said = ""
    for index in indexes:
        done = subprocess.run(
            [*command, *where, *index, f"--dest={folder}", f"--find-links={folder}", f"--requirement={lock}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode == 0:
            return
        said += done.stderr
    raise SystemExit(f"cannot fetch what {lock.name} pins:\n{said}")


def prune(folder: Path, locks: list[Path]) -> None:
    """Remove wheels that no lock names: pip would take the first that fits."""
    wanted = {found for lock in locks for found in re.findall(r"sha256:([0-9a-f]{64})", lock.read_text())}
    for wheel in folder.glob("*.whl"):
        with wheel.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() not in wanted:
                wheel.unlink()


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE / "wheelhouse")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="all, unless named")
    parser.add_argument("--python", default="3.11", help="3.10 or 3.11: that of the base image")
    parser.add_argument("--machine", default=platform.machine(), help="x86_64 or aarch64")
    parser.add_argument("--torch-index", default="https://download.pytorch.org/whl/cpu")
    given = parser.parse_args()
    names = sorted({name for target in given.target or TARGETS for name in TARGETS[target]})
    locks = [HERE / "locks" / f"{name}-{given.python}-{given.machine}.txt" for name in names]
    if missing := [lock.name for lock in locks if not lock.exists()]:
        parser.error(f"nothing is pinned for that machine: no {missing[0]} in compose/locks")
    given.folder.mkdir(parents=True, exist_ok=True)
    prune(given.folder, locks)
    for lock in locks:
        local = [["--no-index"]] if lock.name.startswith("torch") else []  # a wheel at hand spares 190 MB
        indexes = [*local, [], ["--extra-index-url", given.torch_index]] if local else [[]]
        download(lock, given.folder, given.python, given.machine, indexes)


if __name__ == "__main__":
    main()
