"""A ProxyCommand that drops the connection after some bytes: `cut_relay.py PORT BYTES`."""

from __future__ import annotations

import os
import socket
import sys
import threading


def main(port: int, limit: int) -> None:
    board = socket.create_connection(("127.0.0.1", port))

    def back() -> None:
        while data := board.recv(65536):
            os.write(1, data)

    threading.Thread(target=back, daemon=True).start()
    sent = 0
    while sent < limit and (data := os.read(0, 65536)):
        board.sendall(data)
        sent += len(data)
    os._exit(0)


main(int(sys.argv[1]), int(sys.argv[2]))
