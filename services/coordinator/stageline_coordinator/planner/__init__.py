"""The planner: which run of a model's blocks is served by which node.

Pure: a `Problem` goes in, a `Solution` comes out; nothing here reads a clock or a socket. `worker` is the
child process in which the coordinator runs it, so that planning never delays a heartbeat.
"""

from .problem import Block, Codec, Links, Medium, Model, Node, Port, Problem, Replan, Running, Shared
from .solution import ModelSolution, Move, Solution, StageAssignment
from .solve import solve

__all__ = [
    "Block",
    "Codec",
    "Links",
    "Medium",
    "Model",
    "ModelSolution",
    "Move",
    "Node",
    "Port",
    "Problem",
    "Replan",
    "Running",
    "Shared",
    "Solution",
    "StageAssignment",
    "solve",
]
