"""A container's usage, from files as both versions of cgroups have them."""

from __future__ import annotations

from pathlib import Path

from stageline.emulation.usage import Usage, read_usage

DEV = """\
Inter-|   Receive                                    |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  999       1    0    0    0     0          0         0   999       1    0    0    0     0       0          0
  eth0: 1000       2    0    0    0     0          0         0   400       3    0    0    0     0       0          0
"""


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_1(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/7/cgroup": "4:memory:/docker/x\n3:cpuacct:/docker/x\n2:cpu:/docker/x\n0::/docker/x\n",
            "sys/fs/cgroup/cpu/docker/x/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 500000000\n",
            "sys/fs/cgroup/cpuacct/docker/x/cpuacct.usage": "1500000000\n",
            "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": "5000\n",
            "sys/fs/cgroup/memory/docker/x/memory.stat": "cache 1\ntotal_inactive_file 1000\n",
            "proc/7/net/dev": DEV,
        },
    )
    assert read_usage(7, root) == Usage(1.5, 0.5, 4000, 400, 1000)


def test_version_1_with_controllers_mounted_together(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/7/cgroup": "2:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpuacct.usage": "2000000000\n",
        },
    )
    assert read_usage(7, root) == Usage(cpu_s=2.0)


def test_version_2(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/system.slice/docker-x.scope"
    root = written(
        tmp_path,
        {
            "proc/7/cgroup": "0::/system.slice/docker-x.scope\n",
            f"{folder}/cpu.stat": "usage_usec 1500000\nuser_usec 1\nthrottled_usec 500000\n",
            f"{folder}/memory.current": "5000\n",
            f"{folder}/memory.stat": "anon 1\ninactive_file 1000\n",
            "proc/7/net/dev": DEV,
        },
    )
    assert read_usage(7, root) == Usage(1.5, 0.5, 4000, 400, 1000)


def test_who_is_gone_has_used_nothing(tmp_path: Path) -> None:
    assert read_usage(7, tmp_path) == Usage()
