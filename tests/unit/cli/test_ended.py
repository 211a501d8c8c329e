"""What the command line says when a cluster of this machine has ended, or a process of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from stageline.cli import run
from stageline.cli.options import EXIT_FAILED, EXIT_NO_CLUSTER
from stageline.embedded.ended import explain, explaining
from stageline.embedded.processes import boot_id, read_stat
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole, save
from stageline.errors import ConnectionLostError, DeadlineError, NoClusterError

ENDED = 1 << 30
"""A pid that no process has."""

NOWHERE = "127.0.0.1:1"


def process(role: ServiceRole, *, alive: bool) -> ProcessRecord:
    """Alive, it is this process."""
    stat = read_stat(os.getpid())
    assert stat is not None
    pid, started = (os.getpid(), stat.started) if alive else (ENDED, 1)
    return ProcessRecord(name=role, role=role, pid=pid, started=started, log="")


def cluster(data_dir: Path, *, coordinator: bool = False, gateway: bool = False, stage: bool = False) -> ClusterState:
    found = (
        process("coordinator", alive=coordinator),
        process("gateway", alive=gateway),
        process("stage", alive=stage),
    )
    return ClusterState(
        id="c1", data_dir=str(data_dir), boot=boot_id(), created=1.0, coordinator=f"tcp://{NOWHERE}", gateway=NOWHERE,
        processes=found,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["infer", "bench"])
def test_a_gateway_that_has_ended_comes_back_with_the_cluster(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(cluster(tmp_path / "d", stage=True))
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    inputs = ["--input", f"x={tmp_path / 'x.npy'}"] if command == "infer" else []
    assert run([command, "net", *inputs]) == EXIT_NO_CLUSTER
    (line,) = capsys.readouterr().err.splitlines()
    named = f"--data-dir {tmp_path / 'd'}"
    assert f"of the cluster on {tmp_path / 'd'}, gateway has ended (see `stageline logs gateway`)" in line
    assert f"`stageline down {named}`, then `stageline up {named}`" in line and "models are kept" in line


def test_up_says_what_has_ended_of_the_cluster_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(replace(cluster(tmp_path / "d", stage=True), coordinator=""))  # else that would be asked
    assert run(["up", "--detach", "--data-dir", str(tmp_path / "d")]) == EXIT_FAILED
    assert "a cluster already runs on" in (line := capsys.readouterr().err)
    assert "but coordinator, gateway have ended: `stageline down" in line


def test_a_cluster_that_is_gone_is_named(tmp_path: Path) -> None:
    wanted = f"the cluster on {tmp_path} is gone: start it again with `stageline up --data-dir {tmp_path}`"
    with pytest.raises(NoClusterError) as caught, explaining(cluster(tmp_path), "coordinator"):
        raise ConnectionLostError("the coordinator does not take blobs: try again")
    assert str(caught.value) == wanted
    assert explain(cluster(tmp_path, stage=True), "coordinator").startswith(
        f"of the cluster on {tmp_path}, coordinator has ended (see `stageline logs coordinator`): `stageline down"
    )


def test_what_runs_or_is_not_ours_is_not_explained(tmp_path: Path) -> None:
    for state in (None, cluster(tmp_path, coordinator=True)):
        with pytest.raises(ConnectionLostError, match=r"^slow$"), explaining(state, "coordinator"):
            raise ConnectionLostError("slow")
    with pytest.raises(DeadlineError), explaining(cluster(tmp_path), "gateway"):
        raise DeadlineError("late")
