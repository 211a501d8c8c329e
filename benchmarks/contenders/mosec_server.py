"""mosec's side of its contender: a server with two identity stages. A file of its own, as its workers import it."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker


class Identity(Worker):
    """Gives back the bytes it gets."""

    def deserialize(self, data: bytes) -> Any:
        """As they are."""
        return data

    def serialize(self, data: Any) -> bytes:
        """As they are."""
        return bytes(data)

    def forward(self, data: Any) -> Any:
        """Nothing."""
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Identity, num=1)
    server.append_worker(Identity, num=1)
    server.run()
