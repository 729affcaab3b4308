"""What a TVM RPC tracker knows: asked over its own protocol with a time limit, which TVM's client has not."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass

from aqd_deploy.errors import DeviceError

# `tvm.rpc.base`: the first word of both sides, and the message that asks for everything.
_MAGIC, _SUMMARY, _SUCCESS = 0x2F271, 6, 0
_SECONDS = 5.0
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Tracker:
    """A tracker's address, and the key of the boards that are meant."""

    host: str
    port: int
    key: str

    @property
    def text(self) -> str:
        """As `--device` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rpc:{host}:{self.port}/{self.key}"

    def servers(self) -> int:
        """How many boards with the key are there, busy or not; at least one.

        Raises DeviceError where no tracker answers, or where no board has the key.
        """
        keys = [entry["key"].removeprefix("server:") for entry in self._summary()["server_info"]]
        count = keys.count(self.key)
        if not count:
            raise DeviceError(
                f"{self.text}: no board with this key is at the tracker",
                received=self.key,
                valid=", ".join(sorted(set(keys))) or "none, no board is there",
                next_command=f"python -m tvm.exec.rpc_server --tracker {self.host}:{self.port} "
                f"--key {self.key} on the board",
            )
        return count

    def _summary(self) -> dict:
        try:
            with socket.create_connection((self.host, self.port), timeout=_SECONDS) as connection:
                connection.sendall(struct.pack("<i", _MAGIC))
                if struct.unpack("<i", _received(connection, 4))[0] != _MAGIC:
                    raise ValueError("what answers is not a tracker")
                message = json.dumps([_SUMMARY]).encode()
                connection.sendall(struct.pack("<i", len(message)) + message)
                size = struct.unpack("<i", _received(connection, 4))[0]
                if not 0 < size <= _LARGEST:
                    raise ValueError("what answers is not a tracker")
                code, summary = json.loads(_received(connection, size))
                if code != _SUCCESS:
                    raise ValueError(f"the tracker answered {code}")
                return dict(summary)
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(
                f"{self.text}: no tracker answers there",
                received=str(error),
                next_command=f"python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {self.port}",
            ) from error


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ValueError("the connection was closed")
        data += part
    return data
