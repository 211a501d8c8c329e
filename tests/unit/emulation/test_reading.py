"""CLUSTER.yaml: what it means, and that every slip is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageline.emulation.reading import find, presets, read
from stageline.emulation.spec import Box, Event, Link
from stageline.errors import ConfigError

WHOLE = """\
nodes:
  - {name: pi, count: 2, cpus: 0.1, memory_mib: 512, up_mbps: 20, down_mbps: 40, delay_ms: 2.5}
  - name: nuc
    cpus: 1.5
model: {source: "package.module:make", name: net}
gateway: {up_mbps: 100}
workload: {rate_rps: 2.5, duration_s: 60}
events:
  - {at_s: 20, restore: pi-1}
  - {at_s: 10, lose: pi-1}
  - {at_s: 30, link: nuc, up_mbps: 5}
settings:
  gateway: {max_batch: 1}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    found = read(written(tmp_path, WHOLE))
    pi = Link(20, 40, 2.5)
    assert found.boxes == (Box("pi-0", 0.1, 512, pi), Box("pi-1", 0.1, 512, pi), Box("nuc", 1.5))
    assert (found.name, found.subject.source, found.subject.name) == ("site", "package.module:make", "net")
    assert found.gateway == Link(100, 0)
    assert (found.workload.rate_rps, found.workload.duration_s, found.workload.warmup_s) == (2.5, 60, 10)
    assert found.events == (Event(10, "lose", "pi-1"), Event(20, "restore", "pi-1"), Event(30, "link", "nuc", Link(5)))
    assert found.settings == {"gateway": {"max_batch": "1"}}
    assert found.limits_links
    assert found.delays_ms == {"pi-0": 2.5, "pi-1": 2.5}
    assert found.cpus == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("memory_mib: 512", "memory: 512", "site.yaml, line 2: nodes[0].memory is not known here: there are name,"),
        ("cpus: 1.5", "cpus: fast", "line 4: nodes[1].cpus must be a number from 0.04 to 1024, not 'fast'"),
        ("cpus: 1.5", "cpus: nan", "line 4: nodes[1].cpus must be a number"),
        ("cpus: 1.5", "cpus: 0.01", "line 4: nodes[1].cpus must be a number from 0.04"),
        ("count: 2", "count: 1.5", "line 2: nodes[0].count must be a whole number"),
        ("name: nuc", "name: pi-0", "two nodes that are called pi-0"),
        ("name: nuc", "name: gateway", "must not call a node gateway"),
        ("name: nuc", "name: Nuc", "nodes[1].name must be small letters"),
        ("up_mbps: 20", "up_mbps: 0.01", "nodes[0].up_mbps must be at least 0.1"),
        ("model: {", "modle: {", "line 5: modle is not known here"),
        (', name: net}', "}", "line 5: model lacks name"),
        ("lose: pi-1", "lose: pi-2", "line 10: events[1].lose names no node: there are pi-0, pi-1, nuc"),
        ("at_s: 20, restore", "at_s: 5, restore", "line 9: events[0] cannot be: pi-1 runs at 5 s"),
        ("restore: pi-1", "freeze: pi-1", "line 9: events[0] cannot be: pi-1 is lost at 20 s"),
        ("at_s: 30, link: nuc", "at_s: 61, link: nuc", "events[2].at_s must be a number from 0 to 60"),
        ("lose: pi-1", "lose: pi-1, up_mbps: 5", "events[1].up_mbps belongs to the event link alone"),
        ("lose: pi-1", "lose: pi-1, freeze: nuc", "events[1] must have one of lose, restore"),
        ("max_batch: 1", "max_bach: 1", "settings.gateway.max_bach is not known here"),
        ("max_batch: 1", "insecure: 1", "settings.gateway.insecure is not known here"),
        ("max_batch: 1", "max_batch: 1, max_batch: 2", "settings.gateway.max_batch is there twice"),
        ("gateway: {up_mbps: 100}", "gateway: 100", "line 6: gateway must be a mapping"),
        ("nodes:\n", "nodes: []\nnodez:\n", "line 2: nodez is not known here"),
    ],
)  # fmt: skip
def test_a_slip_is_named_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError) as error:
        read(written(tmp_path, WHOLE.replace(old, new, 1)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_cluster_at_all(tmp_path: Path) -> None:
    for text, said in (("", "is empty"), ("- 1", "must be a mapping"), ("nodes: {}", "model is missing")):
        with pytest.raises(ConfigError, match=said):
            read(written(tmp_path, text))


def test_presets_are_there_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert presets() == ["pi-jetson-nuc", "seifer-20", "wifi-mesh-5"]
    sizes = {name: len(read(find(name)).boxes) for name in presets()}
    assert sizes == {"pi-jetson-nuc": 5, "seifer-20": 20, "wifi-mesh-5": 5}
    assert all(read(find(name)).cpus <= 1.6 + 1e-9 for name in presets())
    with pytest.raises(ConfigError, match="neither a file nor a preset: there are pi-jetson-nuc"):
        find("seifer")
    own = tmp_path / "seifer-20"
    own.write_text(WHOLE)
    assert find("seifer-20").resolve() == own
