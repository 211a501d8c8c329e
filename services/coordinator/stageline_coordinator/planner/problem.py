"""What the planner is asked: nodes, models, links, and the running plan. JSON in and out, schema version 1.

Building a `Problem`, from JSON or directly, checks every value once; errors are `ConfigError` and name the
field. Unknown keys are ignored, so that a newer writer can add optional ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stageline.errors import ConfigError

from . import problem_json
from .fields import Field
from .parts import Block, Codec, Links, Medium, Model, Node, Port, Replan, Running, Shared
from .problem_checks import check_current, check_links, check_media, check_model, check_nodes, check_replan
from .problem_limits import check_limits

__all__ = [
    "Block",
    "Codec",
    "Links",
    "Medium",
    "Model",
    "Node",
    "OBJECTIVES",
    "Port",
    "Problem",
    "Replan",
    "Running",
    "Shared",
    "VERSION",
]

VERSION = 1
THROUGHPUT, LATENCY, WEIGHTED = "throughput", "latency", "weighted"
OBJECTIVES = (THROUGHPUT, LATENCY, WEIGHTED)


@dataclass(frozen=True)
class Problem:
    """Everything a plan depends on. Raises `ConfigError` naming the first field that is wrong.

    `links`, `ingress` and `egress` None: free. `current`: the running plan by model name, as far as it still runs.
    """

    nodes: tuple[Node, ...]
    models: tuple[Model, ...]
    links: Links | None = None
    ingress: Port | None = None
    egress: Port | None = None
    objective: str = THROUGHPUT
    version: int = VERSION
    media: tuple[Medium, ...] = ()
    replan: Replan = Replan()
    current: Mapping[str, tuple[Running, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ConfigError(f"version: this planner reads {VERSION}, not {self.version}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective: must be one of {', '.join(OBJECTIVES)}, not '{self.objective}'")
        if self.objective == LATENCY and len(self.models) > 1:
            raise ConfigError(f"objective: latency is for one model, not {len(self.models)}; use weighted")
        check_nodes(self.nodes)
        ids = self.node_index()
        for i, model in enumerate(self.models):
            check_model(model, ids, f"models[{i}]", [other.name for other in self.models[:i]])
        check_links(self.links, {"ingress": self.ingress, "egress": self.egress}, len(ids))
        check_media(self.media, ids)
        check_replan(self.replan)
        check_current(self.current, self.models, ids)

    def node_index(self) -> dict[str, int]:
        """By node id, its place in `nodes`."""
        return {node.id: i for i, node in enumerate(self.nodes)}

    @classmethod
    def from_json(cls, document: object) -> Problem:
        """A problem from parsed JSON. Raises `ConfigError` naming the field, also for `problem_limits`."""
        root = Field(document, "")
        links, ingress, egress, replan = (root.optional(name) for name in ("links", "ingress", "egress", "replan"))
        media, current = root.optional("media"), root.optional("current")
        objective = root.optional("objective")
        problem = cls(
            version=root.key("version").integer(),
            objective=objective.text() if objective else THROUGHPUT,
            nodes=tuple(problem_json.read_node(item) for item in root.key("nodes").some()),
            models=tuple(problem_json.read_model(item) for item in root.key("models").items()),
            links=problem_json.read_links(links) if links else None,
            ingress=problem_json.read_port(ingress) if ingress else None,
            egress=problem_json.read_port(egress) if egress else None,
            media=tuple(problem_json.read_medium(item) for item in media.items()) if media else (),
            replan=problem_json.read_replan(replan) if replan else Replan(),
            current=problem_json.read_current(current) if current else {},
        )
        check_limits(problem)
        return problem

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes; `from_json` gives an equal problem back. What is absent is left out."""
        found: dict[str, object] = {
            "version": self.version,
            "objective": self.objective,
            "nodes": [vars(node).copy() for node in self.nodes],
            "models": [problem_json.write_model(model) for model in self.models],
            "replan": vars(self.replan).copy(),
        }
        if self.links:
            found["links"] = problem_json.write_links(self.links)
        for name, port in (("ingress", self.ingress), ("egress", self.egress)):
            if port:
                found[name] = problem_json.write_port(port)
        if self.media:
            found["media"] = [{**vars(medium), "nodes": list(medium.nodes)} for medium in self.media]
        if self.current:
            found["current"] = problem_json.write_current(self.current)
        return found
