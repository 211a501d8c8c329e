"""What a worker or gateway says when the coordinator could not reach it at an address that it tells others."""

from __future__ import annotations

from stageline.addresses import host_of, is_loopback
from stageline.logs import Logger
from stageline.messages import Reached


def complaint(message: Reached) -> str:
    """One line: what was tried, where the peer was seen to come from, and what to set. Empty if all was reached."""
    failed = [one for one in message.tried if one.problem]
    if not failed:
        return ""
    tried = "; ".join(f"{one.address}: {one.problem}" for one in failed)
    came = f", and sees it come from {message.came_from}" if message.came_from else ""
    return f"others may not reach it: the coordinator tried {tried}{came}. {_advice(failed[0].address)}"


def tell(log: Logger, who: str, message: Reached) -> None:
    """Log it; `who`: ``worker`` or ``gateway``."""
    problem = complaint(message)
    if problem:
        log.warning(f"this {who} is not reached", reason=problem)
    else:
        log.info(f"the coordinator reaches this {who} at every address that others are told")


def _advice(address: str) -> str:
    if is_loopback(host_of(address)):
        return "Only its own machine reaches that: set host (--host 0.0.0.0), or advertise_host, or data_address"
    return (
        "Set advertise_host to where others reach this machine; behind a port map or NAT data_address "
        "(tcp://HOST:PORT) and data_port; or open the firewall for data_port"
    )
