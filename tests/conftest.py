"""For all tests."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent))  # for `waiting` and `ports`

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell starts background jobs with SIGINT ignored, and children inherit that: a command that a test starts and
# interrupts would never notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clusters of tests are listed where the user's own are not: their commands would find them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@dataclass(frozen=True)
class Certificates:
    """An authority, and certificates of it: a gateway's for this machine, a client's; `other` is an authority, too."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        """``ca``, ``gateway_key``, …: the file."""
        stem, _, kind = name.partition("_")
        return self.folder / f"{stem}.{kind or 'pem'}"

    def make(self, name: str, *more: str) -> None:
        """A certificate and its key."""
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        to = ("-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2")
        command = ("openssl", "req", "-x509", *key, *to, *more)
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = Certificates(tmp_path_factory.mktemp("tls"))
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
    made.make("ca")
    made.make("other")
    made.make("gateway", *signed, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    made.make("client", *signed)
    return made
