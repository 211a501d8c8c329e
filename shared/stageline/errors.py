"""Every error that Stageline raises, in one tree.

::

    StagelineError
    ├── ConfigError                  a setting, flag or file of ours is wrong
    ├── ModelError                   a model cannot be imported, read or run
    │   ├── ModelNotFoundError
    │   ├── ModelImportError         the source cannot be exported or cut
    │   ├── UnsupportedOperatorError an operator outside the allow-list
    │   ├── UnsafeArchiveError       reading it would need unpickling
    │   └── ManifestError            a manifest or block graph that is malformed
    ├── StoreError                   the data directory, its database or its blobs
    │   ├── BlobMissingError
    │   ├── BlobCorruptError         bytes do not match their SHA-256
    │   └── StoreVersionError        written by a newer Stageline
    ├── ProtocolError
    │   ├── LocalProtocolError       we tried to send what the protocol forbids
    │   └── RemoteProtocolError      the peer sent what the protocol forbids
    ├── ClusterError
    │   ├── NoClusterError           no running cluster was found
    │   ├── NotReadyError            something did not become ready in time
    │   ├── ConnectionLostError
    │   ├── AuthenticationError      no token, an unknown or expired one, or a certificate that is not trusted
    │   ├── ForbiddenError           the key or token does not allow it
    │   └── PlacementError           no plan fits the nodes
    └── RequestError                 how a request can end other than with a result
        ├── InvalidInputError
        ├── RejectedError            not admitted: come back later
        ├── UnavailableError         no workers for the model
        ├── DeadlineError
        ├── CancelledError
        └── FailedError              computing it failed, on `node` where known

The wire carries `code`, the message, `retry_after_s` and `node`; `from_wire` restores the class. A message says
what is wrong and what to do, and never holds a path or a traceback of the machine that raised it.
"""

from __future__ import annotations

from typing import ClassVar


class StagelineError(Exception):
    """Root of the tree. `code` is stable and goes over the wire; `retryable` says whether to try again."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None, node: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.node = node


class ConfigError(StagelineError):
    """A setting, flag or file of ours is wrong."""

    code = "config"


class ModelError(StagelineError):
    """A model cannot be imported, read or run."""

    code = "model"


class ModelNotFoundError(ModelError):
    """No model of that name is registered."""

    code = "model_not_found"


class ModelImportError(ModelError):
    """The source cannot be exported or cut."""

    code = "model_import"


class UnsupportedOperatorError(ModelError):
    """A graph uses an operator outside the allow-list."""

    code = "unsupported_operator"


class UnsafeArchiveError(ModelError):
    """Reading the archive would need unpickling."""

    code = "unsafe_archive"


class ManifestError(ModelError):
    """A manifest or block graph is malformed."""

    code = "manifest"


class StoreError(StagelineError):
    """The data directory, its database or its blobs."""

    code = "store"


class BlobMissingError(StoreError):
    """A blob is named but not there."""

    code = "blob_missing"


class BlobCorruptError(StoreError):
    """A blob's bytes do not match their SHA-256."""

    code = "blob_corrupt"


class StoreVersionError(StoreError):
    """The data directory was written by a newer Stageline."""

    code = "store_version"


class ProtocolError(StagelineError):
    """A peer and we disagree about the protocol."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids."""

    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""

    code = "remote_protocol"


class ClusterError(StagelineError):
    """The cluster, or the way to it."""

    code = "cluster"


class NoClusterError(ClusterError):
    """No running cluster was found."""

    code = "no_cluster"


class NotReadyError(ClusterError):
    """Something did not become ready in time."""

    code = "not_ready"
    retryable = True


class ConnectionLostError(ClusterError):
    """The connection broke before the answer came."""

    code = "connection_lost"
    retryable = True


class AuthenticationError(ClusterError):
    """Who asks, or who answers, has not shown who it is: a token or certificate is missing, unknown or expired."""

    code = "authentication"


class ForbiddenError(ClusterError):
    """The key or token that we have does not allow it."""

    code = "forbidden"


class PlacementError(ClusterError):
    """No plan fits the nodes."""

    code = "placement"


class RequestError(StagelineError):
    """How a request can end other than with a result."""

    code = "request"


class InvalidInputError(RequestError):
    """The request does not match the model's signature."""

    code = "invalid_input"


class RejectedError(RequestError):
    """Not admitted; `retry_after_s` says when to come back."""

    code = "rejected"
    retryable = True


class UnavailableError(RequestError):
    """The cluster has no workers that could serve the model now."""

    code = "unavailable"
    retryable = True


class DeadlineError(RequestError):
    """The deadline passed before an answer was there."""

    code = "deadline"


class CancelledError(RequestError):
    """The client cancelled the request or went away."""

    code = "cancelled"


class FailedError(RequestError):
    """Computing the request failed; `node` names where, if known."""

    code = "failed"


def _tree(root: type[StagelineError]) -> dict[str, type[StagelineError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_CODE: dict[str, type[StagelineError]] = _tree(StagelineError)


def from_wire(
    code: str, message: str, *, retry_after_s: float | None = None, node: str | None = None
) -> StagelineError:
    """The error that a peer reported; an unknown code (a newer peer) becomes a plain `StagelineError`."""
    return BY_CODE.get(code, StagelineError)(message, retry_after_s=retry_after_s, node=node)
