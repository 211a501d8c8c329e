"""`stageline-health [READY_FILE]`: whether this container's service is up and its main loop turns; exit code 0 or 1.

For container engines, which ask every few seconds: the standard library only, 0.1 s of processor time instead of the
0.5 s of `stageline status`. The service's address comes from the file that it writes when it is up (``ready_file``,
``STAGELINE_READY_FILE``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

VARIABLE = "STAGELINE_READY_FILE"
TIMEOUT_S = 5.0


def check(ready_file: Path) -> str:
    """What is wrong with the service that wrote `ready_file`; empty when nothing is."""
    try:
        address = str(json.loads(ready_file.read_text())["http"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the service is not up yet, or not told to write {ready_file}"
    connection = _connection(address)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return "" if answer.status == 200 else answer.read(4096).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return f"{address} does not answer ({error or type(error).__name__})"
    finally:
        connection.close()


def _connection(address: str) -> HTTPConnection:
    """TLS is not verified: the service is on this machine, and nothing is told to it."""
    scheme, _, place = address.partition("://")
    if scheme != "https":
        return HTTPConnection(place, timeout=TIMEOUT_S)
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(place, timeout=TIMEOUT_S, context=context)


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what is wrong on stdout, where container engines look, and exit."""
    given = sys.argv[1:] if arguments is None else arguments
    place = given[0] if given else os.environ.get(VARIABLE, "")
    wrong = check(Path(place)) if place else f"name the service's ready file, or set {VARIABLE}"
    sys.stdout.write(f"{wrong or 'ok'}\n")
    sys.exit(1 if wrong else 0)
