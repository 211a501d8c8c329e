"""How long a leader waits for the workers of the plan that it found. Pure; times are seconds on one monotonic clock.

Nobody has said anything to it yet, so it knows nothing of anybody. That *nobody* comes says nothing of anyone either:
all may be with another coordinator that leads and that this one does not hear, or behind a broken cable. So nobody is
taken for dead until the first worker or gateway has come; whoever lives can come from then on, and has `patience_s` for
it. A worker that died together with the last leader is missed later by no more than the others take to come: a second
or two where a coordinator starts again, and nothing where a standby takes over, as their coming has it lead.
"""

from __future__ import annotations

from stageline.plan import Plan

from .members import Members


class Rejoining:
    """Over at once where no `plan` was found."""

    def __init__(self, plan: Plan | None, patience_s: float, now: float) -> None:
        self._patience_s, self._until = patience_s, now + patience_s
        self._alone = True
        self.waits = plan is not None

    def deserted(self, now: float) -> bool:
        """Whether nobody has come for so long that people must be told that nothing is served."""
        return self.waits and self._alone and now >= self._until

    def over(self, plan: Plan, members: Members, now: float) -> bool:
        """Whether the wait is over, for good: all workers of the plan are back, or those that are not had the time."""
        if self._alone and any(peer.liveness != "gone" for peer in members.everybody):
            self._alone, self._until = False, now + self._patience_s
        wanted = {r.node for model in plan.models for stage in model.stages for r in stage.replicas}
        nodes = (members.nodes.get(name) for name in wanted)
        late = not self._alone and now >= self._until
        self.waits = self.waits and not (late or all(node is not None and node.present for node in nodes))
        return not self.waits
