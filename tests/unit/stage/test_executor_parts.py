from __future__ import annotations

import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import fields, replace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stageline import logs
from stageline.data import Scalar, Tensor
from stageline.dtypes import ITEMSIZE
from stageline.errors import ConfigError, FailedError
from stageline.sockets import Sockets
from stageline_stage.blackbox import MAX_IDS, BlackBox
from stageline_stage.executor.__main__ import PORT_PATIENCE_S, serve
from stageline_stage.executor.device import choose_device
from stageline_stage.executor.fingerprint import Traits
from stageline_stage.executor.peers import may_send_to
from stageline_stage.executor.queue import OF_MEASUREMENT, WorkQueue, urgency_of
from stageline_stage.executor.tensors import ALIGNMENT, DTYPES, outgoing_values, received_tensor, received_values

batches = st.tuples(st.integers(-3, 3), st.integers(0, 5))


@given(st.lists(batches, max_size=20))
def test_the_queue_gives_priority_then_deadline_then_arrival(items: list[tuple[int, int]]) -> None:
    queue: WorkQueue[tuple[int, int, int]] = WorkQueue()
    for i, (priority, deadline) in enumerate(items):
        queue.put(urgency_of(priority, deadline), (priority, deadline, i))
    assert queue.depth == len(items)
    taken = [queue.take() for _ in items]
    assert taken == sorted(
        [(p, d, i) for i, (p, d) in enumerate(items)], key=lambda x: (x[0], x[1] or float("inf"), x[2])
    )
    assert queue.take() is None and queue.depth == 0


def test_measurements_wait_for_every_batch() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.put(OF_MEASUREMENT, "measure")
    queue.put(urgency_of(1000, 0), "batch")
    assert queue.depth == 1
    assert [queue.take(), queue.take()] == ["batch", "measure"]


def test_a_closed_queue_hands_out_its_batches_and_then_ends() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.put(urgency_of(0, 0), "batch")
    queue.put(OF_MEASUREMENT, "measure")
    queue.close()
    assert not queue.put(urgency_of(0, 0), "late")
    assert [queue.take(), queue.take()] == ["batch", None]


def test_changes_are_told_unless_the_taker_made_them() -> None:
    changes: list[int] = []
    queue: WorkQueue[str] = WorkQueue(lambda: changes.append(queue.depth))
    queue.put(urgency_of(0, 0), "told")
    queue.put(urgency_of(0, 0), "own", tell=False)
    queue.close()
    queue.put(urgency_of(0, 0), "late")
    assert changes == [1, 2]


@pytest.mark.parametrize("dtype", ITEMSIZE)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (0, 4)])
@pytest.mark.parametrize("shift", [0, 1, 8])
def test_tensors_survive_the_wire_bit_by_bit(dtype: str, shape: tuple[int, ...], shift: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sent = (torch.rand(shape, generator=generator) * 9 - 4).to(DTYPES[dtype])
    specs, buffers = outgoing_values([sent])
    assert specs == (Tensor(dtype, shape),)
    frame = bytearray(shift) + bytearray(buffers[0])
    got = received_tensor(Tensor(dtype, shape), memoryview(frame)[shift:])
    assert got.dtype == sent.dtype and got.shape == sent.shape
    assert bytes(outgoing_values([got])[1][0]) == bytes(buffers[0])
    if got.numel() and dtype != "bool":
        assert got.data_ptr() % ALIGNMENT == 0


def test_values_that_are_not_row_major_are_sent_row_major() -> None:
    value = torch.arange(6.0).reshape(2, 3).t()
    _, (buffer,) = outgoing_values([value])
    assert torch.frombuffer(bytearray(buffer), dtype=torch.float32).reshape(3, 2).equal(value)


def test_a_received_frame_is_not_changed_by_an_odd_bool() -> None:
    frame = bytearray([0, 1, 2, 255])
    assert received_tensor(Tensor("bool", (4,)), memoryview(frame)).tolist() == [False, True, True, True]
    assert frame == bytearray([0, 1, 2, 255])


def test_read_only_buffers_are_taken_without_a_warning() -> None:
    assert received_tensor(Tensor("uint8", (3,)), b"abc").tolist() == [97, 98, 99]


def test_numbers_travel_in_the_header() -> None:
    specs, buffers = outgoing_values([7, True, torch.ones(1), 0.5])
    assert [s.value for s in specs if isinstance(s, Scalar)] == [7, True, 0.5]
    assert len(buffers) == 1
    values = received_values(specs, buffers)
    assert values[0] == 7 and values[1] is True and values[3] == 0.5


@pytest.mark.parametrize("value", ["text", None, torch.ones(1, dtype=torch.complex64)])
def test_what_the_wire_does_not_carry_is_refused(value: object) -> None:
    with pytest.raises(FailedError, match="cannot be sent"):
        outgoing_values([value])


TRAITS = Traits("EPYC", "x86_64", "cpu", "eager", "2.13.0", 1, 0.0, ("mkl",))


def test_the_fingerprint_names_every_trait() -> None:
    changed = {
        f.name: replace(TRAITS, **{f.name: ("other",) if f.name == "libraries" else type(getattr(TRAITS, f.name))(9)})
        for f in fields(TRAITS)
    }
    prints = {TRAITS.fingerprint, *(traits.fingerprint for traits in changed.values())}
    assert len(prints) == 1 + len(fields(TRAITS))
    assert replace(TRAITS).fingerprint == TRAITS.fingerprint


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(ConfigError, match="there is cpu"):
        choose_device(device)


def test_auto_always_finds_a_device() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("tcp://127.0.0.1:5", True),
        ("ipc://@stageline-0a", True),
        ("ipc:///tmp/socket", False),
        ("ipc://@other", False),
        ("inproc://x", False),
        ("tcp://" + "a" * 300, False),
    ],
)
def test_a_header_cannot_name_any_address(address: str, allowed: bool) -> None:
    assert may_send_to(address) is allowed


def test_the_black_box_tells_what_a_killed_process_computed() -> None:
    box = BlackBox.create()
    code = (
        "import os, signal, sys; from stageline_stage.blackbox import BlackBox;"
        f"BlackBox({box.descriptor}).write([5, 2**64 - 1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code], pass_fds=(box.descriptor,), check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert box.read() == (5, 2**64 - 1)
    box.write([])
    assert box.read() == ()
    box.close()


def test_the_black_box_drops_what_does_not_fit() -> None:
    box = BlackBox.create()
    box.write([-1, *range(MAX_IDS + 5)])
    assert box.read() == tuple(range(MAX_IDS))
    box.close()


def test_importing_the_agent_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, stageline_stage.__main__; print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_starting_an_executor_imports_no_more_than_it_runs() -> None:
    code = (
        "import sys, stageline_stage.executor.__main__;"
        "print(sorted({'click', 'yaml', 'rich', 'torch', 'numpy', 'stageline.config'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_executor_waits_for_a_data_port_that_its_predecessor_may_hold() -> None:
    asked: dict[str, object] = {}

    class Busy:
        def bind_data(self, host: str, **settings: object) -> None:
            asked.update(settings, host=host)
            raise ConfigError("taken")

    flags = Namespace(host="127.0.0.1", data_port=7711, data_address="", checksum="auto")
    with pytest.raises(ConfigError, match="taken"):
        serve(flags, cast(Sockets, Busy()), logs.get())
    assert asked["port"] == 7711 and asked["patience_s"] == PORT_PATIENCE_S > 1
