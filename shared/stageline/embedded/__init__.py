"""A whole cluster on this machine: coordinator, gateway and stage workers as separate processes on loopback.

`launch.start` starts them, `state` says what runs (a file in the data directory and one in the user's registry),
`shutdown.stop` ends them, also when whoever started them is long gone, `adoption` finds what took their places,
`revival.revive` starts again what has ended of them, and `ports` keeps the ports that they got.
"""

from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.embedded.shutdown import stop
from stageline.embedded.state import ClusterState, ProcessRecord, find, running

__all__ = ["Cluster", "ClusterSpec", "ClusterState", "ProcessRecord", "find", "running", "start", "stop"]
