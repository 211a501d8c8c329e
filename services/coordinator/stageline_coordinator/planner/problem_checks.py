"""Whether a problem's values can be true. Each function raises `ConfigError` naming the first field that cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stageline.errors import ConfigError

from .fields import check_bytes, check_count, check_names, check_number, check_size
from .parts import NO_CODEC, Codec, Links, Medium, Model, Node, Port, Replan, Running


def check_nodes(nodes: Sequence[Node]) -> None:
    """Ids, memory and costs."""
    check_names([node.id for node in nodes], "nodes", "id")
    for i, node in enumerate(nodes):
        check_bytes(node.memory_bytes, f"nodes[{i}].memory_bytes")
        check_bytes(node.base_bytes, f"nodes[{i}].base_bytes")
        check_number(node.hop_s, f"nodes[{i}].hop_s")
        check_number(node.byte_s, f"nodes[{i}].byte_s")
        if node.required and node.excluded:
            raise ConfigError(f"nodes[{i}].required: the node is excluded")


def check_model(model: Model, ids: Collection[str], path: str, earlier: Sequence[str]) -> None:
    """One model; `earlier`: the names of those before it, `ids`: of the nodes."""
    if not model.name:
        raise ConfigError(f"{path}.name: must not be empty")
    if model.name in earlier:
        raise ConfigError(f"{path}.name: '{model.name}' is used twice")
    _check_blocks(model, len(ids), path)
    check_number(model.priority, f"{path}.priority")
    check_bytes(model.buffer_bytes, f"{path}.buffer_bytes")
    check_count(model.batch, f"{path}.batch")
    check_count(model.max_replicas, f"{path}.max_replicas")
    check_number(model.tolerance, f"{path}.tolerance")
    if model.rate_per_s is not None:
        check_number(model.rate_per_s, f"{path}.rate_per_s", positive=True)
    if model.source is not None:
        _check_id(model.source, ids, f"{path}.source")
    for j, node in enumerate(model.required):
        _check_id(node, ids, f"{path}.required[{j}]")
    _check_codecs(model.codecs, path)
    _check_shared(model, path)


def check_links(links: Links | None, ports: Mapping[str, Port | None], nodes: int) -> None:
    """One entry per node, or pair of nodes."""
    rows: list[tuple[str, tuple[float, ...], bool]] = []
    for name, matrix in vars(links).items() if links else ():
        check_size(matrix, nodes, f"links.{name}", "one row per node")
        rows += [(f"links.{name}[{i}]", row, name == "bandwidth_bytes_per_s") for i, row in enumerate(matrix)]
    for where, port in ports.items():
        for name, row in vars(port).items() if port else ():
            rows.append((f"{where}.{name}", row, name == "bandwidth_bytes_per_s"))
    for path, row, infinite in rows:
        check_size(row, nodes, path, "one per node")
        for j, value in enumerate(row):
            check_number(value, f"{path}[{j}]", infinite=infinite)


def check_media(media: Sequence[Medium], ids: Collection[str]) -> None:
    """Names, members and bandwidth."""
    check_names([medium.name for medium in media], "media", "name")
    for i, medium in enumerate(media):
        for j, node in enumerate(medium.nodes):
            _check_id(node, ids, f"media[{i}].nodes[{j}]")
            if node in medium.nodes[:j]:
                raise ConfigError(f"media[{i}].nodes[{j}]: '{node}' is named twice")
        check_number(medium.bandwidth_bytes_per_s, f"media[{i}].bandwidth_bytes_per_s", positive=True)


def check_replan(replan: Replan) -> None:
    """A threshold of 1 or more could never be exceeded."""
    check_number(replan.threshold, "replan.threshold")
    if replan.threshold >= 1:
        raise ConfigError(
            f"replan.threshold: must be below 1 (of the running plan's objective), not {replan.threshold:g}"
        )
    check_number(replan.tolerance, "replan.tolerance")


def check_current(current: Mapping[str, Sequence[Running]], models: Sequence[Model], ids: Collection[str]) -> None:
    """Stages of known models on known nodes, with codecs that the model declares."""
    known = {model.name: model for model in models}
    for name, stages in current.items():
        if name not in known:
            raise ConfigError(f"current.{name}: no such model")
        blocks, codecs = len(known[name].blocks), [NO_CODEC, *(codec.name for codec in known[name].codecs)]
        for i, stage in enumerate(stages):
            path = f"current.{name}[{i}]"
            if not 0 <= stage.blocks[0] < stage.blocks[1] <= blocks:
                raise ConfigError(f"{path}.blocks: must lie within the model's {blocks} blocks")
            if stage.codec not in codecs:
                raise ConfigError(f"{path}.codec: must be one of {', '.join(codecs)}, not '{stage.codec}'")
            for j, node in enumerate(stage.nodes):
                _check_id(node, ids, f"{path}.nodes[{j}]")


def _check_blocks(model: Model, nodes: int, path: str) -> None:
    if not model.blocks:
        raise ConfigError(f"{path}.blocks: must have at least one block")
    check_names([block.name for block in model.blocks], f"{path}.blocks", "name")
    check_size(model.cuts_bytes, len(model.blocks) + 1, f"{path}.cuts_bytes", "blocks + 1")
    for i, cut in enumerate(model.cuts_bytes):
        check_bytes(cut, f"{path}.cuts_bytes[{i}]")
    for i, block in enumerate(model.blocks):
        where = f"{path}.blocks[{i}]"
        check_bytes(block.weight_bytes, f"{where}.weight_bytes")
        check_bytes(block.workspace_bytes, f"{where}.workspace_bytes")
        check_size(block.seconds, nodes, f"{where}.seconds", "one per node")
        for j, seconds in enumerate(block.seconds):
            check_number(seconds, f"{where}.seconds[{j}]", infinite=True)


def _check_codecs(codecs: Sequence[Codec], path: str) -> None:
    check_names([codec.name for codec in codecs], f"{path}.codecs", "name")
    for i, codec in enumerate(codecs):
        if codec.name == NO_CODEC:
            raise ConfigError(f"{path}.codecs[{i}].name: '{NO_CODEC}' is always there; leave it out")
        check_number(codec.ratio, f"{path}.codecs[{i}].ratio", positive=True)
        check_number(codec.error, f"{path}.codecs[{i}].error")
        check_number(codec.byte_s, f"{path}.codecs[{i}].byte_s")


def _check_shared(model: Model, path: str) -> None:
    """Blocks of the model, each at most once in an entry, that have the bytes that they share."""
    left = [block.weight_bytes for block in model.blocks]
    for i, one in enumerate(model.shared):
        where = f"{path}.shared[{i}]"
        check_bytes(one.bytes, f"{where}.bytes")
        for j, block in enumerate(one.blocks):
            if not 0 <= block < len(left):
                raise ConfigError(f"{where}.blocks[{j}]: must be one of the model's blocks, 0 to {len(left) - 1}")
            if block in one.blocks[:j]:
                raise ConfigError(f"{where}.blocks[{j}]: block {block} is named twice")
            left[block] -= one.bytes
            if left[block] < 0:
                raise ConfigError(f"{where}.bytes: block {block} has fewer weight_bytes than it shares")


def _check_id(node: str, ids: Collection[str], path: str) -> None:
    if node not in ids:
        raise ConfigError(f"{path}: no node '{node}'")
