"""How torch is set up in an executor: threads, determinism, a first warm-up."""

from __future__ import annotations

import gc
import platform
from typing import Any

import torch

from stageline_stage.executor.fingerprint import Traits
from stageline_stage.resources import cpu_name, cpu_quota

BACKEND = "eager"


def set_up(device: torch.device, threads: int) -> None:
    """One thread between operators, `threads` within; kernels that give the same bits every time."""
    torch.set_num_threads(max(1, threads))
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    gc.freeze()  # torch's 170,000 objects live as long as the process; walking them takes 50 ms
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=True)


def warm_up(device: torch.device) -> None:
    """Make torch load its kernels now rather than in the first request."""
    with torch.inference_mode():
        image = torch.ones(1, 3, 16, 16, device=device)
        torch.nn.functional.conv2d(image, torch.ones(4, 3, 3, 3, device=device))
        (image.reshape(16, -1) @ torch.ones(48, 16, device=device)).softmax(-1).cpu()


def traits(device: torch.device, threads: int) -> Traits:
    """What block times depend on here."""
    backends: Any = torch.backends
    libraries = [f"mkl={backends.mkl.is_available()}", f"mkldnn={backends.mkldnn.is_available()}"]
    if device.type == "cuda":
        libraries += [f"cuda={torch.version.cuda}", f"cudnn={backends.cudnn.version()}"]
    return Traits(
        cpu=cpu_name(),
        machine=platform.machine(),
        device=device_name(device),
        backend=BACKEND,
        torch_version=torch.__version__,
        threads=threads,
        cpu_quota=cpu_quota(),
        libraries=tuple(libraries),
    )


def device_name(device: torch.device) -> str:
    """The device as people call it."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def device_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device in bytes; 0 for the CPU, which uses the box's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
