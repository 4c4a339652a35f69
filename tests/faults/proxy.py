"""Stands between clients and a database server, and loses the answers to some commits."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from types import TracebackType

_COMMIT = b"\x03COMMIT"  # COM_QUERY, and its text


class LosesAnswers:
    """A proxy on 127.0.0.1 which every so often forwards a COMMIT and keeps the answer.

    The server has committed then, and both sides see their connection cut: the client cannot
    know. It reads the protocol, so that connections must be plain, without TLS or compression.

    Args:
        server_port: The server, on 127.0.0.1.
        every: How many commits have one lost answer among them.
    """

    def __init__(self, server_port: int, *, every: int) -> None:
        self._server_port, self._every = server_port, every
        self._commits = itertools.count(1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.lost = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> LosesAnswers:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in [self._listener, *self._open]:
            _cut(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self._server_port))
            pair = {client, server}
            self._open |= pair
            loses = threading.Event()
            back = threading.Thread(target=self._answer, args=(server, client, loses), daemon=True)
            back.start()
            try:
                self._ask(client, server, loses)
            finally:
                if loses.is_set():
                    back.join()  # the server must have committed before it is cut off
                for each in pair:
                    _cut(each)
                self._open -= pair
        _cut(client)

    def _ask(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        """Forward what the client says, packet by packet, up to a COMMIT whose answer is lost."""
        stream = client.makefile("rb")
        while header := stream.read(4):
            body = stream.read(int.from_bytes(header[:3], "little"))
            if body.upper() == _COMMIT and next(self._commits) % self._every == 0:
                loses.set()
            server.sendall(header + body)
            if loses.is_set():
                return

    def _answer(
        self, server: socket.socket, client: socket.socket, loses: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if loses.is_set():
                    self.lost += 1
                    return
                client.sendall(data)
            _cut(client)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
