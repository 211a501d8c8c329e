"""The parts of a problem from JSON and back. Errors name the field; `problem` checks the values themselves.

What JSON has no number for is null: seconds of a block that a node cannot run, and a bandwidth without limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .fields import Field
from .parts import NO_CODEC, Block, Codec, Links, Medium, Model, Node, Port, Replan, Running, Shared


def read_node(item: Field) -> Node:
    return Node(
        id=item.key("id").text(),
        memory_bytes=item.key("memory_bytes").integer(),
        base_bytes=_integer(item, "base_bytes", 0),
        excluded=_flag(item, "excluded"),
        required=_flag(item, "required"),
        hop_s=_number(item, "hop_s", 0.0),
        byte_s=_number(item, "byte_s", 0.0),
    )


def read_model(item: Field) -> Model:
    rate, source, codecs = (item.optional(name) for name in ("rate_per_s", "source", "codecs"))
    required, shared = item.optional("required"), item.optional("shared")
    return Model(
        name=item.key("name").text(),
        blocks=tuple(_read_block(one) for one in item.key("blocks").items()),
        cuts_bytes=tuple(one.integer() for one in item.key("cuts_bytes").items()),
        priority=_number(item, "priority", 1.0),
        rate_per_s=rate.number() if rate else None,
        buffer_bytes=_integer(item, "buffer_bytes", 0),
        batch=_integer(item, "batch", 1),
        source=source.text() if source else None,
        max_replicas=_integer(item, "max_replicas", 1),
        tolerance=_number(item, "tolerance", 0.0),
        codecs=tuple(_read_codec(one) for one in codecs.items()) if codecs else (),
        required=tuple(one.text() for one in required.items()) if required else (),
        shared=tuple(_read_shared(one) for one in shared.items()) if shared else (),
    )


def read_links(item: Field) -> Links:
    bandwidth = tuple(_numbers_or_inf(row) for row in item.key("bandwidth_bytes_per_s").items())
    return Links(bandwidth, tuple(row.numbers() for row in item.key("latency_s").items()))


def read_port(item: Field) -> Port:
    return Port(_numbers_or_inf(item.key("bandwidth_bytes_per_s")), item.key("latency_s").numbers())


def read_medium(item: Field) -> Medium:
    nodes = tuple(one.text() for one in item.key("nodes").items())
    return Medium(item.key("name").text(), nodes, item.key("bandwidth_bytes_per_s").number())


def read_replan(item: Field) -> Replan:
    default = Replan()
    return Replan(_number(item, "threshold", default.threshold), _number(item, "tolerance", default.tolerance))


def read_current(item: Field) -> dict[str, tuple[Running, ...]]:
    return {name: tuple(_read_running(one) for one in stages.items()) for name, stages in item.members()}


def write_model(model: Model) -> dict[str, object]:
    blocks = [{**vars(block), "seconds": _null_for_inf(block.seconds)} for block in model.blocks]
    codecs = [vars(codec).copy() for codec in model.codecs]
    shared = [{"blocks": list(one.blocks), "bytes": one.bytes} for one in model.shared]
    lists = {"cuts_bytes": list(model.cuts_bytes), "required": list(model.required)}
    return {**vars(model), "blocks": blocks, **lists, "codecs": codecs, "shared": shared}


def write_links(links: Links) -> dict[str, object]:
    return {name: [_null_for_inf(row) for row in rows] for name, rows in vars(links).items()}


def write_port(port: Port) -> dict[str, object]:
    return {name: _null_for_inf(row) for name, row in vars(port).items()}


def write_current(current: Mapping[str, tuple[Running, ...]]) -> dict[str, object]:
    return {
        name: [{"blocks": list(one.blocks), "nodes": list(one.nodes), "codec": one.codec} for one in stages]
        for name, stages in current.items()
    }


def _read_block(item: Field) -> Block:
    return Block(
        name=item.key("name").text(),
        weight_bytes=item.key("weight_bytes").integer(),
        workspace_bytes=item.key("workspace_bytes").integer(),
        seconds=_numbers_or_inf(item.key("seconds")),
    )


def _read_shared(item: Field) -> Shared:
    return Shared(tuple(one.integer() for one in item.key("blocks").items()), item.key("bytes").integer())


def _read_codec(item: Field) -> Codec:
    return Codec(
        name=item.key("name").text(),
        ratio=item.key("ratio").number(),
        error=_number(item, "error", 0.0),
        byte_s=_number(item, "byte_s", 0.0),
    )


def _read_running(item: Field) -> Running:
    nodes, codec = tuple(one.text() for one in item.key("nodes").items()), item.optional("codec")
    return Running(item.key("blocks").span(), nodes, codec.text() if codec else NO_CODEC)


def _integer(item: Field, name: str, default: int) -> int:
    found = item.optional(name)
    return found.integer() if found else default


def _number(item: Field, name: str, default: float) -> float:
    found = item.optional(name)
    return found.number() if found else default


def _flag(item: Field, name: str) -> bool:
    found = item.optional(name)
    return found.flag() if found else False


def _numbers_or_inf(item: Field) -> tuple[float, ...]:
    return tuple(math.inf if one.value is None else one.number() for one in item.items())


def _null_for_inf(row: Iterable[float]) -> list[float | None]:
    return [None if math.isinf(value) else value for value in row]
