"""`stageline models add` from a machine without torch to a cluster with keys: its job sees nothing; it is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import WAIT_S, Site, eventually, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "safetensors", "transformers", "sklearn"]))
from stageline.cli import main
main(sys.argv[1:])
"""
FACTORY = """
import os, pathlib, socket
import torch
from helper_of_spy import layer

def tried(what, do):
    try:
        print(what, "worked", do())
    except OSError as error:
        print(what, "failed")

def make():
    tried("the coordinator", lambda: socket.create_connection(("127.0.0.1", int("{port}")), 5))
    tried("the network", lambda: socket.create_connection(("172.17.0.1", 53), 5))
    tried("writing the image", lambda: open("/opt/stageline/x", "w"))
    tried("writing the source", lambda: open("spy.py", "a"))
    tried("becoming root", lambda: os.setuid(0))
    keys = [*pathlib.Path("/").glob("etc/stageline/keys/*"), *pathlib.Path("/").glob("*/*/*.key")]
    print("keys", keys, [name for name in os.environ if "KEY" in name or "TOKEN" in name], os.getuid())
    return layer(), (torch.zeros(2, 4),)

def waits():
    import time
    print("waiting", flush=True)
    time.sleep(600)
"""
HELPER = """
import torch

def layer():
    torch.manual_seed(3)
    return torch.nn.Linear(4, 3)
"""


def command(site: Site, folder: Path, factory: str, *more: str) -> tuple[list[str], dict[str, str]]:
    """The command line on a laptop, whose home is `folder`, and its environment."""
    (folder / "spy.py").write_text(FACTORY.replace("{port}", site.coordinator.rsplit(":", 1)[1]))
    (folder / "helper_of_spy.py").write_text(HELPER)
    where = ["--coordinator", site.coordinator, "--keys-dir", str(site.admin_keys(folder))]
    homes = {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("STATE", "DATA", "CACHE")}
    environment = {**os.environ, **homes, "STAGELINE_STAGE_IMAGE": site.images["stage"], "A_KEY": "secret"}
    add = ["models", "add", factory, "--include", "helper_of_spy.py", *where, *more]
    return [sys.executable, "-c", WITHOUT_TORCH, *add], environment


def left() -> list[str]:
    """Containers of imports, running or not, and their volumes."""
    kinds = (("ps", "-aq"), ("volume", "ls", "-q"))
    return [one for kind in kinds for one in run("docker", *kind, "--filter", "label=stageline.import.owner").split()]


def test_a_factory_that_sees_nothing_is_imported_uploaded_and_served(site: Site, tmp_path: Path) -> None:
    arguments, environment = command(site, tmp_path, "spy:make", "--name", "spy", "--json")
    done = subprocess.run(
        arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    tried = ("the coordinator", "the network", "writing the image", "writing the source", "becoming root")
    assert [line for line in said if line.endswith(("failed", "worked"))] == [f"{what} failed" for what in tried]
    assert "keys [] [] 10001" in said
    assert json.loads(done.stdout)["status"] == "serving"
    try:
        values = np.linspace(-1, 1, 4, dtype=np.float32)[None]
        np.save(tmp_path / "x.npy", values)
        with (tmp_path / "x.npy").open("rb") as file:
            answer = site.execute("gateway", "stageline", "infer", "spy", "--json", "--input", "input=-", stdin=file)
        torch.manual_seed(3)
        with torch.inference_mode():
            wanted = torch.nn.Linear(4, 3)(torch.from_numpy(values))[0].tolist()
        (output,) = json.loads(answer)["outputs"]
        assert [one["value"] for one in sorted(output["top"], key=lambda one: one["index"])] == pytest.approx(wanted)
    finally:
        site.compose("run", "--rm", "-T", "cli", "models", "remove", "spy")
    assert left() == []
    assert not list((tmp_path / "cache/stageline").iterdir())


def test_nothing_stays_behind_when_the_command_is_killed(site: Site, tmp_path: Path) -> None:
    arguments, environment = command(site, tmp_path, "spy:waits")
    with subprocess.Popen(arguments, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as laptop:
        assert laptop.stderr
        assert any(line == "waiting\n" for line in laptop.stderr), "it is at work"
        assert len(left()) == 2
        laptop.kill()
    eventually("Docker has removed all of it", lambda: not left())
