from __future__ import annotations

import os
from pathlib import Path

import pytest

from stageline_stage.resources import available_bytes, cpu_name, cpu_quota, process_state, resident_bytes

GIB = 1 << 30


@pytest.fixture
def box(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 8388608 kB\n")
    write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name\t: ARM Cortex-A76\n")
    write(tmp_path, "proc/self/cgroup", "0::/jobs/one\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_what_is_free_counts(box: Path) -> None:
    assert available_bytes(box) == 8 * GIB
    assert cpu_quota(box) == 0.0
    assert cpu_name(box) == "ARM Cortex-A76"


def test_the_tightest_limit_of_all_ancestors_counts_v2(box: Path) -> None:
    write(box, "sys/fs/cgroup/jobs/one/memory.max", "max\n")
    write(box, "sys/fs/cgroup/jobs/memory.max", f"{4 * GIB}\n")
    write(box, "sys/fs/cgroup/jobs/memory.current", f"{2 * GIB}\n")
    write(box, "sys/fs/cgroup/jobs/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    write(box, "sys/fs/cgroup/jobs/one/cpu.max", "150000 100000\n")
    write(box, "sys/fs/cgroup/jobs/cpu.max", "max 100000\n")
    assert available_bytes(box) == 3 * GIB
    assert cpu_quota(box) == 1.5


def test_limits_of_v1(box: Path) -> None:
    write(box, "proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    write(box, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(box, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    write(box, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
    write(box, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert available_bytes(box) == GIB
    assert cpu_quota(box) == 0.5


def test_no_limit_in_v1_is_a_huge_number(box: Path) -> None:
    write(box, "proc/self/cgroup", "5:memory:/\n")
    write(box, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(box, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert available_bytes(box) == 8 * GIB
    assert cpu_quota(box) == 0.0


def test_names_with_brackets_do_not_hide_the_state(tmp_path: Path) -> None:
    write(tmp_path, "proc/7/stat", "7 (odd) T name) S 1 7\n")
    assert process_state(7, tmp_path) == "S"
    assert process_state(8, tmp_path) == ""


def test_this_process_is_seen() -> None:
    assert process_state(os.getpid()) == "R"
    assert resident_bytes(os.getpid()) > 1 << 20
