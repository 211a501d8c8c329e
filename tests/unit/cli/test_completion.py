"""What the shell is offered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stageline.cli import run
from stageline.cli.completion import SHELLS
from stageline.cli.options import EXIT_USAGE
from stageline.embedded import state
from stageline.embedded.processes import boot_id, read_stat
from stageline.embedded.state import ClusterState, ProcessRecord

MAIN = "from stageline.cli import main; main()"


def offered(shell: str, *words: str) -> list[str]:
    """What a shell gets when the last word is being completed."""
    line = " ".join(("stageline", *words))
    variables = {"_STAGELINE_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    if shell == "fish":
        variables["COMP_CWORD"] = words[-1]
    done = subprocess.run(
        [sys.executable, "-c", MAIN], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterState:
    """One that seems to run: its process is this one, nobody listens at its addresses."""
    stat = read_stat(os.getpid())
    assert stat is not None
    (tmp_path / "c").mkdir()
    made = ClusterState(
        id="c", data_dir=str(tmp_path / "c"), boot=boot_id(), created=time.time(), coordinator="tcp://127.0.0.1:9",
        processes=tuple(
            ProcessRecord(name=name, role="stage", pid=os.getpid(), started=stat.started, log="")
            for name in ("stage-0", "stage-1")
        ),
    )  # fmt: skip
    state.save(made)
    return made


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_takes(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_STAGELINE_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=60)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == EXIT_USAGE
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err


def test_commands_and_flags_are_completed() -> None:
    assert offered("bash", "mod") == ["plain,models"]
    assert offered("bash", "bench", "net", "--conc") == ["plain,--concurrency"]
    assert offered("fish", "mod")[0].startswith("plain,models")


def test_processes_are_completed(cluster: ClusterState) -> None:
    assert offered("bash", "logs", "stage") == ["plain,stage-0", "plain,stage-1"]
    assert offered("bash", "logs", "--data-dir", cluster.data_dir, "stage-1") == ["plain,stage-1"]
    assert offered("bash", "logs", "--data-dir", "elsewhere", "stage") == []


def test_without_a_cluster_no_model_is_offered_and_nothing_is_said() -> None:
    assert offered("bash", "bench", "n") == []
    assert offered("bash", "models", "show", "--gateway", "nonsense", "n") == []


def test_a_coordinator_that_does_not_answer_offers_nothing(cluster: ClusterState) -> None:
    assert offered("bash", "models", "remove", "n") == []
