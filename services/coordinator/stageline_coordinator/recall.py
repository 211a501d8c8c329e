"""What a coordinator knows from before its start; what is damaged on disk is left out, and the log says so."""

from __future__ import annotations

from stageline import logs
from stageline.errors import StagelineError

from .cluster import Memory
from .figures import Figures, is_sound
from .registry import load_manifest
from .store import Store


def recall(store: Store) -> Memory:
    """What is on disk. A model whose manifest is damaged is left out, and the log says so."""
    models = []
    for name, sha in store.models().items():
        try:
            models.append((sha, load_manifest(store.blobs, sha)))
        except StagelineError as error:
            logs.get(service="coordinator").error("model left out", model=name, reason=error.message)
    return Memory(
        models=tuple(models),
        figures=_figures(store),
        plan=store.plan(),
        nodes=store.nodes(),
        links=store.links(),
        objective=store.objective(),
        wishes=store.wishes(),
        node_wishes=store.node_wishes(),
    )


def _figures(store: Store) -> Figures:
    """What blocks cost; what the planner would refuse is left out, and so measured again."""
    figures = store.profiles()
    for key in [key for key, figure in figures.items() if not is_sound(figure)]:
        found = figures.pop(key)
        logs.get(service="coordinator").warning(
            "stored figure left out: it is measured again", graph=key.graph, batch=key.batch, seconds=found.seconds
        )
    return figures
