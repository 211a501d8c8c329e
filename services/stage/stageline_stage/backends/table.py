"""The backends, a line each."""

from __future__ import annotations

from stageline.errors import ConfigError
from stageline_stage.backends.base import Backend
from stageline_stage.backends.eager import Eager
from stageline_stage.backends.openvino import OpenVino

BACKENDS: dict[str, Backend] = {
    one.name: one
    for one in (
        Eager(),
        OpenVino(),
    )
}


def candidates(name: str, device: str) -> list[Backend]:
    """The compiling backends to try on a device ("cpu", "cuda"). Raises `ConfigError` for one that is not here."""
    if name == "eager":
        return []
    compiling = [one for one in BACKENDS.values() if one.name != "eager"]
    if name == "auto":
        return [one for one in compiling if device == "cpu" and not one.available()]
    wanted = [one for one in compiling if one.name == name]
    names = ", ".join(("auto", *BACKENDS))
    reason = wanted[0].available() if wanted else f"unknown; there is {names}"
    if wanted and device != "cpu":
        reason = f"the device is {device}, but it runs on the CPU"
    if reason:
        raise ConfigError(f"backend {name!r} cannot be used: {reason}")
    return wanted
