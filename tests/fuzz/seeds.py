"""Valid inputs of every decoder, made by code: what fuzzing starts from."""

from __future__ import annotations

import io
import json
import math
import zipfile
from random import Random
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from stageline import messages, protocol
from stageline.clienttokens import ClientToken
from stageline.data import DATA_VERSION, Activation, Cancel, Failure, Hop, Scalar, Tensor, Timing, encode_frames
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec
from stageline.plan import Endpoint, StageKey
from stageline.wire import encode
from stageline_coordinator.planner import Problem, solve
from stageline_gateway import journal_format
from stageline_stage.graph import codec
from stageline_stage.tensorfile import tensor_bytes

SHA = "ab" * 32
SEED = 7


def example(kind: Any, rng: Random) -> Any:
    """A value of a message type as plain msgpack: required fields always, optional ones half of the time."""
    return _example(msgspec.inspect.type_info(kind), rng)


def _example(kind: Any, rng: Random) -> Any:
    info = msgspec.inspect
    if isinstance(kind, info.UnionType):
        return _example(rng.choice(kind.types), rng)
    if isinstance(kind, info.StructType):
        return _structure(kind, rng)
    if isinstance(kind, info.LiteralType):
        return rng.choice(kind.values)
    if isinstance(kind, (info.VarTupleType, info.ListType)):
        return [_example(kind.item_type, rng) for _ in range(rng.randint(0, 2))]
    if isinstance(kind, info.TupleType):
        return [_example(one, rng) for one in kind.item_types]
    if isinstance(kind, info.DictType):
        return {_example(kind.key_type, rng): _example(kind.value_type, rng) for _ in range(rng.randint(0, 2))}
    plain = {info.IntType: rng.randint(1, 3), info.FloatType: 0.5, info.BoolType: True, info.NoneType: None}
    plain[info.BytesType] = bytes(32)
    return plain.get(type(kind), rng.choice((SHA, "cpu", "n")))


def _structure(kind: msgspec.inspect.StructType, rng: Random) -> Any:
    fields = [field for field in kind.fields if kind.array_like or field.required or rng.random() < 0.5]
    values = {field.encode_name: _example(field.type, rng) for field in fields}
    if kind.array_like:
        return [*([kind.tag] if kind.tag is not None else []), *values.values()]
    return {**({kind.tag_field: kind.tag} if kind.tag_field else {}), **values}


def of_union(union: Any, each: int = 2) -> list[Any]:
    """Plain examples of every message of a union."""
    rng = Random(SEED)
    kinds = getattr(union, "__args__", (union,))
    return [example(kind, rng) for kind in kinds for _ in range(each)]


# --- client port and data plane -----------------------------------------------------------------------------


def _stream(*frames: tuple[msgspec.Struct, bytes]) -> bytes:
    pieces = [bytes([5])]
    for message, body in frames:
        pieces += [bytes(piece) for piece in protocol.encode_frame(message, (body,) if body else ())]
    return b"".join(pieces)


def to_server() -> list[bytes]:
    specs = (protocol.TensorSpec("x", "float32", (2, 3)), protocol.TensorSpec("n", "int64", (2, 4)))
    infer = protocol.Infer(1, "m", specs, deadline_ms=5.0, idempotency_key="k", want_timings=True)
    body = bytes(2 * 3 * 4 + 2 * 4 * 8)
    whole = _stream((protocol.ClientHello(1, "c"), b""), (infer, body), (protocol.Cancel(1), b""))
    return [whole, _stream((infer, body)), *(_raw(tree) for tree in of_union(protocol.ToServer))]


def to_client() -> list[bytes]:
    hello = protocol.ServerHello((1,), "s", "g", protocol.Limits(1 << 20, 4))
    result = protocol.Result(1, (protocol.TensorSpec("y", "bfloat16", (2, 2)),), timings=protocol.Timings())
    error = protocol.Error(2, "rejected", "later", retry_after_ms=5.0)
    whole = _stream((hello, b""), (protocol.Accepted(1), b""), (result, bytes(8)), (error, b""))
    return [whole, *(_raw(tree) for tree in of_union(protocol.ToClient))]


def _raw(tree: Any) -> bytes:
    header = msgspec.msgpack.encode(tree)
    return bytes([0]) + protocol.PREFIX.pack(len(header), 0) + header


def data_frames() -> list[bytes]:
    stage = StageKey(manifest=SHA, start=0, end=1)
    hop = Hop(stage, "tcp://n:1", "n", "n/0")
    values = (Tensor("uint8", (1, 2)), Scalar(3))
    header = Activation(DATA_VERSION, "g/1", 1, (1,), (1,), 1, (1, 1), (hop,), 0, "tcp://g:1", values)
    outputs = (Tensor("uint8", (1, 2)),)
    back = msgspec.structs.replace(header, hop=1, values=outputs, timings=(Timing(3, 4),))
    coded = msgspec.structs.replace(header, values=(Tensor("float32", (2, 3), "int8"),))
    failure = Failure(DATA_VERSION, "g/1", 1, 1, "failed", f"stage {stage} broke", "n", "n/0", True)
    cancel = Cancel(DATA_VERSION, "g/1", (1, 2), (hop,))
    found = [(header, [b"ab"]), (back, [b"cd"]), (coded, [bytes(14)]), (failure, []), (cancel, [])]
    apart = [[msgspec.msgpack.encode(header), *buffers] for header, buffers in found if buffers]
    packed = [[bytes(part) for part in encode_frames(*one)] for one in found]
    return [msgspec.msgpack.encode(frames) for frames in (*packed, *apart)]


# --- control plane ------------------------------------------------------------------------------------------


def conversations() -> list[bytes]:
    """What an agent, and a gateway, say to the coordinator one after the other."""
    executor = messages.ExecutorInfo("n/0", 1, Endpoint("tcp://127.0.0.1:1"))
    node = messages.NodeInfo(1 << 30, "cpu", "cpu", "h", executors=(executor,))
    agent = messages.Hello("agent", "a0", "i", node=node, probe=Endpoint("tcp://127.0.0.1:2"))
    gateway = messages.Hello("gateway", "g", "i", probe=Endpoint("tcp://127.0.0.1:3"))
    times = tuple(messages.BlockTime(i, 1, 0.01, 100) for i in range(2))
    stage = StageKey(manifest=SHA, start=0, end=2)
    from_agent = (
        messages.Profiled(SHA, "cpu", times),
        messages.Prepared(1, 1, (stage,), ("n/0",)),
        messages.PrepareFailed(1, 1, stage, "x", "y"),
        messages.ExecutorDown("n/0", 1, "killed"),
        messages.ExecutorUp(executor),
        messages.Leaving("a0"),
        messages.Pong(1, 0.0, "i", progress=(messages.Progress("n/0", 1, 2),)),
        messages.Probed("gateway:g", messages.LinkTime(0.01, 0.1, 1e6, 0.1, 1e6, 0.1)),
    )
    pong = messages.Pong(1, 0.0, "i", epoch=(1, 1), oldest_in_flight=(1, 1))
    talks: list[list[tuple[int, Any]]] = [[(0, agent), (1, gateway), (0, one), (1, pong)] for one in from_agent]
    talks.append([(0, agent), *((0, one) for one in from_agent)])
    talks.append([(2, messages.Hello("admin", "x", "i")), (2, messages.ListNodes(1)), (2, messages.GetProblem(2))])
    loose = [msgspec.msgpack.encode([(0, encode(agent)), (0, msgspec.msgpack.encode(one))]) for one in _loose()]
    return [msgspec.msgpack.encode([(who, encode(said)) for who, said in talk]) for talk in talks] + loose


def _loose() -> list[Any]:
    return of_union(messages.ToCoordinator, 1)


# --- documents ----------------------------------------------------------------------------------------------


def model(name: str = "net") -> ModelManifest:
    """Two blocks; sizes that are numbers, names and expressions."""
    first = ValueSpec("x", "float32", ("batch", "sequence", 4))
    between = ValueSpec("h", "float32", ("batch", "2*sequence+1"))
    count, last = ValueSpec("n", "int64", (), "int"), ValueSpec("y", "float32", ("batch", 2))
    weight = TensorRef("w", SHA, "float32", (2, 2), 16, 128)
    blocks = (
        BlockSpec("b0", SHA, 100, (weight,), (first,), (between, count), 10, 20),
        BlockSpec("b1", "cd" * 32, 100, (), (between, count), (last,), 10, 20),
    )
    dims = {"batch": DimRange(1, 8, 1), "sequence": DimRange(1, 512, 16)}
    return ModelManifest(name, (first,), (last,), blocks, dims)


def manifests() -> list[bytes]:
    return [json.dumps(model().to_json()).encode()]


def problem() -> dict[str, Any]:
    """Two nodes, one model, everything that a problem may say."""
    codec_ = {"name": "int8", "ratio": 0.25, "error": 0.004, "byte_s": 1e-9}
    blocks = [{"name": f"b{i}", "weight_bytes": 10, "workspace_bytes": 1, "seconds": [1.0, None]} for i in range(2)]
    one = {
        "name": "m", "blocks": blocks, "cuts_bytes": [4, 4, 4], "priority": 2, "rate_per_s": 0.5, "buffer_bytes": 1,
        "batch": 2, "source": "a", "max_replicas": 2, "tolerance": 0.01, "codecs": [codec_],
    }  # fmt: skip
    port = {"bandwidth_bytes_per_s": [1e6, None], "latency_s": [0.0, 0.1]}
    return {
        "version": 1, "objective": "throughput", "models": [one], "ingress": port, "egress": port,
        "nodes": [{"id": "a", "memory_bytes": 100}, {"id": "b", "memory_bytes": 50, "base_bytes": 5, "hop_s": 0.1}],
        "links": {"bandwidth_bytes_per_s": [[None, 1e6], [1e6, None]], "latency_s": [[0, 0.1], [0.1, 0]]},
        "media": [{"name": "wifi", "nodes": ["a", "b"], "bandwidth_bytes_per_s": 1e6}],
        "replan": {"threshold": 0.1, "tolerance": 0.02}, "current": {"m": [{"blocks": [0, 2], "nodes": ["a"]}]},
    }  # fmt: skip


def problems() -> list[bytes]:
    whole = problem()
    bare = {key: whole[key] for key in ("version", "nodes", "models")}
    return [json.dumps(one).encode() for one in (whole, bare)]


def solutions() -> list[bytes]:
    return [json.dumps(solve(Problem.from_json(problem())).to_json()).encode()]


def graphs() -> list[bytes]:
    ref, call = codec.Ref, codec.Call
    calls = (
        call("a", "aten.linear.default", (ref("x"), ref("w")), {}),
        call("m", "py.mul", (ref("n"), 2), {}),
        call("r", "aten.arange.default", (ref("m"),), {"device": codec.HereDevice(), "dtype": torch.float32}),
        call("p", "aten.full.default", ([1], -math.inf), {"layout": torch.strided}),
        call("q", "aten.clone.default", (ref("a"),), {"memory_format": torch.contiguous_format}),
        call("c", "aten.cat.default", ([ref("q"), ref("a")], 0), {}),
    )
    whole = codec.BlockGraph(("x", "n"), ("c", "m", "x"), calls, {"w": SHA}, {"x": (1, 0)})
    return [codec.encode(whole), codec.encode(codec.BlockGraph(("x",), ("x",), (), {}))]


def settings() -> list[bytes]:
    whole = "gateway: {max_batch: 4, batch_delay_ms: 1.0, name: g}\nstage:\n  threads: 2\n  device: cpu\n"
    return [whole.encode(), b"coordinator:\n  port: 0\n  data_dir: /tmp/x\n  drain_s: 1.5\n", b"{}"]


TOKEN = ClientToken("0123456789ab", SHA, ("infer", "admin"), "camera", 2.5, 4, 1e9, 2e9)


def client_tokens() -> list[bytes]:
    plain = ClientToken("ba9876543210", SHA, ("infer",))
    files: list[dict[str, Any]] = [{"version": 1, "tokens": found} for found in ([TOKEN, plain], [])]
    return [msgspec.json.encode(one) for one in files]


def tensor_files() -> list[bytes]:
    kinds = (torch.bool, torch.bfloat16, torch.int8)
    others = [tensor_bytes(torch.zeros(4, dtype=kind)) for kind in kinds]
    return [tensor_bytes(torch.arange(6.0).view(2, 3)), tensor_bytes(torch.empty(0, dtype=torch.int64)), *others]


_SPECS = (protocol.TensorSpec("x", "uint8", (1, 4)),)
TAKEN = (journal_format.Taken(7, 1e9, protocol.Infer(7, "m", _SPECS, idempotency_key="k")), [b"abcd"])


def journals() -> list[bytes]:
    taken = [(replace(TAKEN[0], number=number), TAKEN[1]) for number in (1, 2, 3)]
    ended = (journal_format.Ended(1, 1e9, result=protocol.Result(1, _SPECS)), [b"wxyz"])
    failed = (journal_format.Ended(2, 1e9, error=protocol.Error(0, "failed", "x", node="n")), [])
    found = []
    for records in ([*taken, ended, failed, (journal_format.Freed(3), [])], []):
        data = journal_format.head(SEED)
        for record, buffers in records:
            _, pieces = journal_format.frame(record, buffers, SEED, len(data))
            data += b"".join(pieces)
        found.append(data)
    return found


# --- archives -----------------------------------------------------------------------------------------------

ROOT, WEIGHT = "net/", "data/weights/weight_0"
ENTRIES = ("models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json")


def archive_documents() -> list[Any]:
    """The JSON entries of an archive as torch.export writes them, cut down to what is looked at."""
    node = {
        "target": "torch.ops.aten.relu.default", "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}}],
        "outputs": [{"as_tensor": {"name": "y"}}], "metadata": {"stack_trace": "x", "nn_module_stack": "s"},
    }  # fmt: skip
    size = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": {"as_int": 2}}}
    tree = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": None}]}])
    graph = {
        "graph_module": {
            "graph": {"nodes": [node], "tensor_values": {"x": {"dtype": 7, "sizes": [size]}}},
            "module_call_graph": [{"fqn": "", "signature": {"in_spec": tree, "out_spec": ""}}],
        },
        "range_constraints": {"s77": {"min_val": 1, "max_val": 8}}, "guards_code": ["x"],
    }  # fmt: skip
    weights = {"config": {"0.weight": {"path_name": "weight_0", "use_pickle": False}}}
    return [graph, weights, {"config": {}}]


def archive_of(documents: list[bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with these JSON entries and one weight."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as out:
        for name, document in zip(ENTRIES, documents, strict=False):
            out.writestr(zipfile.ZipInfo(ROOT + name), document, compression)
        out.writestr(zipfile.ZipInfo(ROOT + WEIGHT), b"1234", compression)
    return data.getvalue()


def archives() -> list[bytes]:
    documents = [json.dumps(one).encode() for one in archive_documents()]
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [archive_of(documents, kind) for kind in kinds]


def archive_parts() -> list[bytes]:
    return [b"\0".join(json.dumps(one).encode() for one in archive_documents())]
