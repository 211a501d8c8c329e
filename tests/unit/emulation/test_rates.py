"""What tc is told, and what is said where it cannot be."""

from __future__ import annotations

import pytest

from stageline.emulation import rates
from stageline.errors import ConfigError


@pytest.mark.parametrize(("mbps", "wanted"), [(20, "tbf rate 20000kbit burst 32768 latency 50ms"),
                                              (0.5, "tbf rate 500kbit burst 32768 latency 50ms"),
                                              (1000, "tbf rate 1000000kbit burst 500000 latency 50ms")])  # fmt: skip
def test_bursts_are_as_long_as_the_kernels_timer_needs(mbps: float, wanted: str) -> None:
    assert " ".join(rates.discipline(mbps)) == wanted


def test_without_root_or_tools_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="takes root"):
        rates.check_tools()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "tc" else tool)
    with pytest.raises(ConfigError, match="takes tc: install iproute2"):
        rates.check_tools()
