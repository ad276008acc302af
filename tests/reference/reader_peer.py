"""Handheld readers as a process of its own: one connection, the bytes of stdin, and their pauses.

`python -m tests.reference.reader_peer PORT` reads lines of hex from stdin and sends each as it is;
an empty line closes the connection.
"""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link:
        print("connected", flush=True)
        for line in sys.stdin:
            if not line.strip():
                break
            link.sendall(bytes.fromhex(line))
