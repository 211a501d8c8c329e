"""What is fuzzed: every decoder of bytes that others sent or wrote, and what is done first with what it gives.

A target takes any bytes. It may refuse them only with an error of `stageline.errors` that its peer can be told: one
that encodes, and is not longer than its cause. What it accepts must be the same after another way out and in.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import seeds
import torch
from forms import FRAMES, JOURNAL, JSON, MESSAGES, PARTS, STREAM, TAGGED, TENSOR, Form
from stored import journal, scratch, tensor_file

from stageline import messages, protocol
from stageline.client.core import ClientCore
from stageline.clienttokens import ClientTokens, parse_tokens
from stageline.config import CoordinatorConfig, GatewayConfig, StageConfig, load
from stageline.data import Activation, Cancel, decode_frames, encode_frames
from stageline.errors import AuthenticationError, StagelineError
from stageline.framing import Frame, FrameReader
from stageline.manifest import ModelManifest
from stageline.plan import Endpoint, ModelPlan, NodeView, Plan, PlanStage, Replica, Signature
from stageline.wire import Decoder, encode
from stageline_coordinator import events
from stageline_coordinator.admin_requests import REQUESTS, AdminRequests
from stageline_coordinator.assemble import idle, signature
from stageline_coordinator.cluster import Cluster, Memory, Settings
from stageline_coordinator.planner import Problem, Solution
from stageline_coordinator.planner.check import check
from stageline_coordinator.store import FigureKey, Store
from stageline_gateway import events as ev
from stageline_gateway.admission import admit, allowed_s, in_parts
from stageline_gateway.core import Identity
from stageline_gateway.engine import Engine
from stageline_gateway.settings import Settings as GatewaySettings
from stageline_stage.graph import codec, rebuild
from stageline_stage.importer import archive

MAX_BODY = 1 << 16


@dataclass(frozen=True)
class Target:
    """`form` None: only bytes are changed. `max_len`: inputs grow to so many bytes."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    form: Form | None = None
    max_len: int = 4096

    def run(self, data: bytes) -> None:
        """Let the decoder have it; whatever this raises is a defect."""
        try:
            self.read(data)
        except StagelineError as error:
            refusal(error, len(data))


def refusal(error: StagelineError, size: int) -> None:
    """The error can be sent and printed, and `size` bytes of input did not grow in it."""
    assert len(error.message.encode()) <= 2000 + 8 * size, f"an error of {len(error.message)} characters"


def _document(data: bytes) -> Any:
    """What is JSON, as every reader of these documents loads it."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise StagelineError("not JSON") from None


# --- client port --------------------------------------------------------------------------------------------


def _pieces(data: bytes) -> Iterator[bytes]:
    """The stream after the first byte, cut as that says."""
    step = data[0] * 7 if data and data[0] else 1 << 20
    yield from (data[start : start + step] for start in range(1, len(data), step))


def _received(reader: FrameReader, data: bytes) -> Iterator[Frame]:
    for piece in _pieces(data):
        yield from reader.feed(piece)
        while reader.blocked:
            yield from reader.resume()


def gateway_port(data: bytes) -> None:
    """A gateway reads frames, and admits what asks for inference."""
    reader = FrameReader(max_body=MAX_BODY, reserve=lambda nbytes: nbytes % 3 > 0)
    for frame in _received(reader, data):
        assert len(frame.body) <= MAX_BODY
        try:
            _ask(frame)
        except StagelineError as error:
            refusal(error, len(data))


def _ask(frame: Frame) -> None:
    message = protocol.decode_to_server(frame.header)
    again = protocol.decode_to_server(encode(message))
    assert encode(again) == encode(message)
    if isinstance(message, protocol.Infer) and not frame.skipped:
        buffers = protocol.split_body(message.inputs, frame.body)
        assert sum(map(len, buffers)) == len(frame.body)
        deadline = allowed_s(message, 1.0)
        request = admit(PLANNED, (1, message.id), message, buffers, 0.0, deadline)
        parts = in_parts(PLANNED.signature, request, 8)
        assert sum(part.rows for part in parts) == request.rows


def client_port(data: bytes) -> None:
    """A client reads what a gateway says."""
    core = ClientCore()
    core.reader.max_body = MAX_BODY
    for frame in _received(core.reader, data):
        for event in core.received([frame]):
            value = getattr(event, "value", None)
            if isinstance(value, StagelineError):
                refusal(value, len(data))


# --- data plane ---------------------------------------------------------------------------------------------


def _plan(model: ModelPlan) -> Plan:
    return Plan(1, 1, (model,), (NodeView("n", "i", "alive", ("n/0",)),))


def _served(known: Signature) -> ModelPlan:
    stages = (PlanStage(0, 1, (Replica("n", "n/0", Endpoint("tcp://n:1")),)),)
    return ModelPlan("m", seeds.SHA, known, "serving", stages=stages)


def _fuzzed_signature() -> Signature:
    """Of a model with two inputs; one size is an expression."""
    values = {"inputs": [("x", "float32", ("batch", 3)), ("n", "int64", ("batch", "sequence"))]}
    values["outputs"] = [("y", "bfloat16", ("batch", "2*sequence"))]
    found = {key: [dict(zip(("name", "dtype", "dims"), v, strict=True)) for v in one] for key, one in values.items()}
    dims = {"batch": (1, 64, 1), "sequence": (1, 512, 16)}
    sizes = {key: dict(zip(("minimum", "maximum", "nominal"), one, strict=True)) for key, one in dims.items()}
    return msgspec.convert({**found, "dims": sizes}, Signature)


PLANNED = _served(_fuzzed_signature())
BYTES = _served(
    msgspec.convert(
        {
            "inputs": [{"name": "x", "dtype": "uint8", "dims": ["batch", 2]}],
            "outputs": [{"name": "y", "dtype": "uint8", "dims": ["batch", 2]}],
        },
        Signature,
    )
)
ASKED = protocol.Infer(1, "m", (protocol.TensorSpec("x", "uint8", (1, 2)),))


def data_plane(data: bytes) -> None:
    """Executors and gateways read frames; a gateway that waits for batch 1 takes them as its outcome."""
    try:
        frames = msgspec.msgpack.decode(data, type=list[bytes])
    except (msgspec.DecodeError, RecursionError):
        return
    header, buffers = decode_frames(frames)
    for checked in (False, True):
        again, same = decode_frames(encode_frames(header, buffers, checked=checked))
        assert encode(again) == encode(header)
        assert list(same) == list(buffers)
    if isinstance(header, Cancel):
        return  # executors remember its batches, gateways drop it
    engine = Engine(GatewaySettings(batch_delay_s=0.0), Identity("g/1", Endpoint("tcp://g:1")))
    engine.handle(ev.PlanApplied(_plan(BYTES)), 0.0)
    engine.handle(ev.RequestArrived(1, ASKED, [b"ab"]), 0.0)
    known = ev.ResultArrived(header, buffers) if isinstance(header, Activation) else ev.FailureArrived(header)
    outcomes = [one for one in engine.handle(known, 0.1) if isinstance(one, (ev.Answer, ev.Refuse))]
    assert engine.idle == bool(outcomes)
    for one in outcomes:
        if isinstance(one, ev.Refuse):
            refusal(one.error, len(data))
        else:
            assert [len(part) for part in one.buffers] == [2]


# --- control plane ------------------------------------------------------------------------------------------

_KINDS = [kind for channel in messages.CHANNELS for kind in (channel.to_binder, channel.to_connector) if kind]
_DECODERS: list[Decoder[Any]] = [Decoder(kind) for kind in _KINDS]


def control_seeds() -> list[bytes]:
    """Every message of every channel, in both directions."""
    return [
        bytes([i]) + msgspec.msgpack.encode(one)
        for i, kind in enumerate(_KINDS)
        for one in seeds.of_union(kind, each=1)
    ]


def control_plane(data: bytes) -> None:
    """Any process reads a control message."""
    decode = _DECODERS[data[0] % len(_DECODERS)] if data else _DECODERS[0]
    message = decode(data[1:])
    assert encode(decode(encode(message))) == encode(message)


PEERS = ("agent:a0", "gateway:g", "admin:x", "agent:n")


@functools.cache
def _store() -> Store:
    return Store(scratch() / "store")


def coordinator(data: bytes) -> None:
    """A coordinator is told things by peers that keep the message types and nothing else."""
    try:
        talk = msgspec.msgpack.decode(data, type=list[tuple[int, bytes]])
    except (msgspec.DecodeError, RecursionError):
        return
    manifest = seeds.model()
    cluster = Cluster(Settings(1, "c", "tcp://p", "tcp://b"), Memory(models=((seeds.SHA, manifest),)), 0.0)
    admin = AdminRequests(cluster, _store())
    for i, (sender, packed) in enumerate(talk[:20]):
        try:
            message = _DECODERS[0](packed)
        except StagelineError as error:
            refusal(error, len(data))
            continue
        if isinstance(message, REQUESTS):
            encode(admin.answer(message, i / 10)[0])
            continue
        cluster.members.vouches(PEERS[sender % len(PEERS)], message)
        for one in cluster.handle(events.Heard(PEERS[sender % len(PEERS)], message), i / 10):
            _carry_out(one)
    encode(cluster.digest())


def _carry_out(one: events.Instruction) -> None:
    """As the service does, but for what would be kept: that would change what the next input meets."""
    if isinstance(one, events.Send):
        encode(one.message)
        one.peer.encode()
    elif isinstance(one, events.PublishPlan):
        encode(one.plan)
    elif isinstance(one, events.PublishDigest):
        encode(one.digest)
    elif isinstance(one, events.PersistNode):
        _store().put_node(one.hello)
        _store().forget_node(one.hello.name)
    elif isinstance(one, events.PersistFigure):
        _store().put_profile(FigureKey(one.graph, one.fingerprint, one.batch), one.figure)
    elif isinstance(one, events.PersistLinks):
        _store().put_links(one.links)
    elif isinstance(one, events.Solve):
        json.dumps(one.document)


# --- documents ----------------------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    """A coordinator takes a model, and broadcasts its signature."""
    read = ModelManifest.from_json(_document(data))
    assert ModelManifest.from_json(read.to_json()) == read
    assert len(read.digest) == 64
    json.dumps(read.describe())
    encode(signature(read))
    encode(idle("m", {"m": (seeds.SHA, read)}, "unavailable", "no workers"))
    read.blobs()


def problem(data: bytes) -> None:
    """The planner, or the command line, takes a problem."""
    read = Problem.from_json(_document(data))
    assert Problem.from_json(json.loads(json.dumps(read.to_json(), allow_nan=False))) == read


def solution(data: bytes) -> None:
    """A solution is read, and checked against its problem."""
    document = _document(data)
    read = Solution.from_json(document)
    assert Solution.from_json(json.loads(json.dumps(read.to_json(), allow_nan=False))) == read
    for fault in check(seeds.problem(), document).violations:
        fault.encode()


def graph(data: bytes) -> None:
    """A worker reads a block graph and joins it to a module, which is not run."""
    read = codec.decode(data)
    assert codec.encode(codec.decode(codec.encode(read))) == codec.encode(read)
    if sum(data) % 8 == 0:  # fx compiles Python: too slow to do it always
        rebuild.join([read], {sha: torch.zeros(1) for sha in read.tensors.values()}, torch.device("cpu"))


def settings(data: bytes) -> None:
    """Services whose section is named, or one of all, read a configuration file: parsing YAML in Python takes long."""
    path = scratch() / "settings.yaml"
    path.write_bytes(data)
    kinds = (CoordinatorConfig, GatewayConfig, StageConfig)
    for kind in [kind for kind in kinds if kind.section.encode() in data] or kinds[:1]:
        try:
            load(kind, flags={}, environ={}, file=path)
        except StagelineError as error:
            refusal(error, len(data))


def client_tokens(data: bytes) -> None:
    """A gateway reads its file of client tokens, and what a client shows as one."""
    text = data.decode(errors="replace")
    try:
        ClientTokens([seeds.TOKEN]).check(text, 0.0)
        raise AssertionError("a token was guessed")
    except AuthenticationError as error:
        refusal(error, len(data))
    read = parse_tokens(data, scratch() / "tokens.json")
    assert parse_tokens(msgspec.json.encode({"version": 1, "tokens": read}), scratch()) == read
    known = ClientTokens(read)
    assert all(known.get(token.id) == token for token in read)


# --- archives -----------------------------------------------------------------------------------------------


def archive_file(data: bytes) -> None:
    """An import looks into a `.pt2` archive before torch does."""
    archive.clean_copy(io.BytesIO(data), io.BytesIO())


def archive_json(data: bytes) -> None:
    """The same for what is in the JSON entries of a sound zip file."""
    made = seeds.archive_of(data.split(b"\0"))
    archive.clean_copy(io.BytesIO(made), io.BytesIO())


TARGETS: dict[str, Target] = {
    "gateway-port": Target(gateway_port, seeds.to_server, STREAM),
    "client-port": Target(client_port, seeds.to_client, STREAM),
    "data-plane": Target(data_plane, seeds.data_frames, FRAMES),
    "control-plane": Target(control_plane, control_seeds, TAGGED),
    "coordinator": Target(coordinator, seeds.conversations, MESSAGES),
    "manifest": Target(manifest, seeds.manifests, JSON),
    "problem": Target(problem, seeds.problems, JSON),
    "solution": Target(solution, seeds.solutions, JSON),
    "graph": Target(graph, seeds.graphs, JSON),
    "settings": Target(settings, seeds.settings, max_len=256),
    "client-tokens": Target(client_tokens, seeds.client_tokens, JSON),
    "tensor-file": Target(tensor_file, seeds.tensor_files, TENSOR),
    "journal": Target(journal, seeds.journals, JOURNAL),
    "archive-file": Target(archive_file, seeds.archives),
    "archive-json": Target(archive_json, seeds.archive_parts, PARTS),
}
