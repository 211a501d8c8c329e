"""Pins what the images install: `python compose/lock.py` writes compose/locks/, `--check` resolves them again.

A lock is a requirements file per target, Python and processor in which every line carries the SHA-256 of the one wheel
that is installed, so that neither an index nor a wheelhouse can slip in another. Needs uv and Python 3.11; nothing is
downloaded but metadata. torch has files of its own, since a Jetson or CUDA base brings another.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomllib

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
PLATFORMS = (("3.11", "x86_64"), ("3.11", "aarch64"), ("3.10", "aarch64"))
"""Python 3.10 is that of JetPack 6."""

EXTRAS = {"control": (), "stage": ("stage", "import"), "build": None}
"""Of pyproject.toml; `build` is what makes the wheel of Stageline itself, and the pip that installs."""

BUILD = "hatchling>=1.26\npip>=24\n"
TORCH = {"x86_64": "2.13.0+cpu", "aarch64": "2.10.0"}
"""CPU builds. Their index is https://download.pytorch.org/whl/cpu; PyPI's own wheels for aarch64 are CPU builds up to
2.10 and want CUDA's libraries later, those for x86-64 always do."""

HEADER = "# Made by compose/lock.py; run it again instead of editing.\n"


@dataclass(frozen=True)
class Lock:
    """One lock file."""

    target: str
    python: str
    machine: str

    @property
    def path(self) -> Path:
        return LOCKS / f"{self.target}-{self.python}-{self.machine}.txt"

    @property
    def torch(self) -> Path:
        return LOCKS / f"torch-{self.python}-{self.machine}.txt"


def locks() -> Iterator[Lock]:
    """All of them; torch's files come with those of `stage`."""
    for target in EXTRAS:
        for python, machine in PLATFORMS:
            yield Lock(target, python, machine)


def write(lock: Lock, links: list[str]) -> None:
    """Resolve and write one."""
    for path, text in resolve(lock, f"torch=={TORCH[lock.machine]}\n", links).items():
        path.write_text(text)


def check(lock: Lock, links: list[str]) -> None:
    """Resolve one again at the versions that it pins: nothing may be missing, and each wheel must have its hash.

    Raises `SystemExit` that names the file.
    """
    files = [path for path in (lock.path, lock.torch) if path.exists()]
    pins = "".join(f"{name}\n" for path in files for name in re.findall(r"^\S+==\S+", path.read_text(), re.MULTILINE))
    for path, text in resolve(lock, pins, links).items():
        if path.read_text() != text:
            raise SystemExit(f"{path.name} is not what pyproject.toml and the index say: run compose/lock.py")


def resolve(lock: Lock, constraints: str, links: list[str]) -> dict[Path, str]:
    """The files of a lock and what they should hold. Raises `SystemExit` with what uv says."""
    with tempfile.TemporaryDirectory() as scratch:
        resolved, constraint = Path(scratch) / "pylock.toml", Path(scratch) / "constraints.txt"
        constraint.write_text(constraints)
        source, extras = HERE.parent / "pyproject.toml", EXTRAS[lock.target]
        if extras is None:
            source = Path(scratch) / "build.in"
            source.write_text(BUILD)
        chosen = [f"--extra={extra}" for extra in extras or ()] + [f"--constraint={constraint}"]
        _uv([str(source), *chosen, f"--output-file={resolved}", *links], lock)
        packages = tomllib.loads(resolved.read_text())["packages"]
    lines = {package["name"]: _line(package) for package in packages}
    torch = lines.pop("torch", None)
    files = {lock.path: HEADER + "".join(lines.values())}
    return files if torch is None else {**files, lock.torch: HEADER + torch}


def _line(package: dict[str, object]) -> str:
    wheels = package["wheels"]
    assert isinstance(wheels, list)
    hashes = sorted(wheel["hashes"]["sha256"] for wheel in wheels)
    return f"{package['name']}=={package['version']}" + "".join(f" \\\n    --hash=sha256:{h}" for h in hashes) + "\n"


def _uv(arguments: list[str], lock: Lock) -> None:
    where = [f"--python-version={lock.python}", f"--python-platform={lock.machine}-manylinux_2_28"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *arguments, *where, "--only-binary=:all:", "--no-header"]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{lock.path.name} does not resolve:\n{done.stderr}")


def main() -> None:
    """Write or check the locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="resolve what is there instead of writing it anew")
    parser.add_argument("--machine", choices=sorted(TORCH), help="only this processor's")
    parser.add_argument("--find-links", action="append", default=[], help="directory of wheels that no index has")
    given = parser.parse_args()
    links = [f"--find-links={place}" for place in given.find_links]
    wanted = [lock for lock in locks() if given.machine in (None, lock.machine)]
    with ThreadPoolExecutor(len(wanted)) as pool:  # they wait for the index, not for the processor
        list(pool.map(lambda lock: (check if given.check else write)(lock, links), wanted))


if __name__ == "__main__":
    main()
