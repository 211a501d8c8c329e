"""An independent check of a solution against its problem, both as JSON: a second reading of docs/planner.md.

It recomputes every stage's memory and seconds, the objective and the latencies, and has a bound of its own. It shares
no code with the solver or `evaluate` but `fields.Field`, which names the field of a value that cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .check_bound import lower_bound
from .check_costs import Costs, costs, objective, own_objective
from .check_place import place, too_little
from .check_reading import Answer, Case, Claims, read_answer, read_case
from .check_rules import expected_moves, memory_faults, model_faults, required_faults

RELATIVE = 1e-9  # two ways of adding the same numbers up
PROVEN = 1e-12


@dataclass(frozen=True)
class Report:
    """What the check found; figures recomputed, in seconds, None where the plan cannot run.

    `lower_bound_s`: the checker's own; `gap`: of the recomputed objective to the better of both bounds.
    `infeasibility`: of a solution that claims it, whether that is "proven", "refuted" (a violation) or "open";
    `claims_proof`: whether it says that it is proven (None: it does not say).
    """

    violations: tuple[str, ...]
    objective_s: float | None = None
    lower_bound_s: float | None = None
    gap: float | None = None
    latency_s: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str = ""
    infeasibility: str = ""
    claims_proof: bool | None = None

    @property
    def ok(self) -> bool:
        return not self.violations


def violations(problem: object, solution: object) -> tuple[str, ...]:
    """Everything that is wrong, in words. Raises `ConfigError` naming the field of a document that cannot be read."""
    case, answer = read_case(problem), read_answer(solution)
    return _judge(case, answer)[0]


def check(problem: object, solution: object) -> Report:
    """The violations, the recomputed figures, and the checker's own bound. Raises as `violations` does."""
    case, answer = read_case(problem), read_answer(solution)
    wrong, found = _judge(case, answer)
    verdict, plan = _infeasibility(case, answer, possible=found is not None)
    report = _figures(case, answer, (*wrong, *plan), found)
    return replace(report, infeasibility=verdict, claims_proof=answer.proven)


def _infeasibility(case: Case, answer: Answer, *, possible: bool) -> tuple[str, tuple[str, ...]]:
    """What becomes of the claim that there is no plan, and the plan that refutes it."""
    if answer.claims.status != "infeasible":
        return "", ()
    if too_little(case):
        return "proven", ()
    others = {name: stages for name, stages in answer.stages.items() if name in case.chains}
    out = [name for name in case.chains if name not in others]
    if not out and len(case.chains) == 1:  # the model has stages, but some required node has none
        out, others = list(case.chains), {}
    if len(out) != 1 or not possible:
        return "open", ()
    found = place(case, case.chains[out[0]], others)
    if found.stages is not None:
        plan = ", ".join(f"[{one.start}, {one.end}) on {one.nodes[0]}" for one in found.stages)
        return "refuted", (f"status: 'infeasible', but {out[0]} can be placed: {plan}",)
    return ("proven" if found.proven and not others else "open"), ()


def _figures(case: Case, answer: Answer, wrong: tuple[str, ...], found: Costs | None) -> Report:
    bound = lower_bound(case)
    own = bound if math.isfinite(bound) else None
    if found is None:
        return Report(wrong, lower_bound_s=own)
    value = objective(case, answer.stages, found) if answer.stages else None
    best = max(own or 0.0, min(answer.claims.bound or 0.0, value or 0.0))
    gap = max(0.0, 1 - best / value) if value else (None if value is None else 0.0)
    bottleneck = max(found.busy, key=found.busy.__getitem__, default="")
    return Report(wrong, value, own, gap, dict(found.latency), bottleneck)


def _judge(case: Case, answer: Answer) -> tuple[tuple[str, ...], Costs | None]:
    """What is wrong, and what the plan costs; nothing for a plan that cannot run."""
    wrong = [*_placement_faults(case, answer)]
    if wrong:
        return tuple(wrong), None
    found = costs(case, answer.stages)
    value = objective(case, answer.stages, found) if answer.stages else None
    wrong += _claim_faults(case, answer, found, value)
    wrong += _stage_figure_faults(answer, found)
    wrong += _move_faults(case, answer)
    return tuple(wrong), found


def _placement_faults(case: Case, answer: Answer) -> Iterator[str]:
    """Why the stages are no plan for the models that are placed, and whether those that are not are said to be so."""
    for where, names in (("stages", answer.named), ("models", answer.models)):
        yield from (f"{where}.{name}: not a model of the problem" for name in names if name not in case.chains)
    placed = {name: stages for name, stages in answer.stages.items() if name in case.chains}
    for name, chain in case.chains.items():
        if name in placed:
            yield from model_faults(case, chain, placed[name])
        elif answer.claims.status != "infeasible":
            yield f"stages.{name}: the model is not placed, but the status is '{answer.claims.status}'"
        elif name in answer.models and answer.models[name].status != "infeasible":
            yield f"models.{name}.status: '{answer.models[name].status}', but the model is not placed"
    if answer.claims.status == "infeasible" and not answer.claims.reason:
        yield "reason: missing, though the status is 'infeasible'"
    yield from memory_faults(case, placed)
    if answer.claims.status != "infeasible":
        yield from required_faults(case, placed)


def _claim_faults(case: Case, answer: Answer, found: Costs, value: float | None) -> Iterator[str]:
    claims = answer.claims
    if claims.status != "infeasible" and claims.objective is None:
        yield f"objective_s: missing, though the status is '{claims.status}'"
    yield from _differs("objective_s", claims.objective, value)
    if claims.status != "infeasible" and answer.proven is not None:
        yield f"proven: says something of 'infeasible' only, but the status is '{claims.status}'"
    yield from _bound_faults("", claims)
    for name, one in answer.models.items():
        if name in case.chains:
            placed = name in answer.stages
            own = own_objective(case, answer.stages, found, name) if placed else None
            yield from _differs(f"models.{name}.objective_s", one.objective, own)
            yield from _differs(f"models.{name}.latency_s", one.latency, found.latency.get(name))
            yield from _bound_faults(f"models.{name}.", one)
    yield from _differs("latency_s", claims.latency, max(found.latency.values(), default=None))
    rates = [chain.rate for chain in case.chains.values()]
    known = [rate for rate in rates if rate is not None]
    bottleneck = found.bottleneck()
    factor = 1 / (bottleneck * max(known)) if known and len(known) == len(rates) and bottleneck else None
    yield from _differs("load_factor", answer.load_factor, factor)


def _bound_faults(where: str, claims: Claims) -> Iterator[str]:
    """A bound above the objective, a gap that does not follow, a status that the gap does not bear out."""
    if claims.objective is None:
        return
    if claims.bound is None:
        if claims.status == "optimal" or claims.gap is not None:
            yield f"{where}lower_bound_s: missing, though status and gap need one"
        return
    if claims.bound > claims.objective * (1 + RELATIVE):
        yield f"{where}lower_bound_s: {claims.bound:.9g} is above the objective, {claims.objective:.9g}"
    gap = (claims.objective - claims.bound) / claims.objective if claims.objective else 0.0
    if claims.gap is None or abs(claims.gap - max(0.0, gap)) > RELATIVE:
        yield f"{where}gap: {claims.gap}, but objective and bound give {gap:.9g}"
    if claims.status == "optimal" and gap > PROVEN:
        yield f"{where}status: 'optimal', but the gap is {gap:.3g}"
    if claims.status == "feasible" and gap <= 0:
        yield f"{where}status: 'feasible', but the bound is reached: 'optimal'"


def _stage_figure_faults(answer: Answer, found: Costs) -> Iterator[str]:
    for name, stages in answer.stages.items():
        for stage, compute, transfer in zip(stages, found.compute[name], found.transfer_in[name], strict=True):
            yield from _differs(f"{stage.where}.compute_s", stage.compute_s, compute)
            yield from _differs(f"{stage.where}.transfer_in_s", stage.transfer_in_s, transfer)


def _move_faults(case: Case, answer: Answer) -> Iterator[str]:
    expected = expected_moves(case, answer.stages)
    for key in sorted({*expected, *answer.moved}):
        if expected.get(key, 0) != answer.moved.get(key, 0):
            stated, wanted = answer.moved.get(key, 0), expected.get(key, 0)
            yield f"moves: {key[1]} has to fetch {wanted} bytes of {key[0]}, not {stated}"
    total = sum(expected.values())
    if answer.moved_bytes is not None and answer.moved_bytes != total:
        yield f"moved_bytes: {answer.moved_bytes}, but it comes to {total}"


def _differs(where: str, stated: float | None, found: float | None) -> Iterator[str]:
    if stated is None:
        return
    if found is None:
        yield f"{where}: {stated:.9g}, but nothing is placed that it could be of"
    elif not math.isclose(stated, found, rel_tol=RELATIVE, abs_tol=1e-15):
        yield f"{where}: {stated:.9g}, but it comes to {found:.9g}"
