"""Only this machine can be reached: what tests, and the processes that they start, are bound to."""

from __future__ import annotations

import socket
from collections.abc import Callable

LOCAL = {None, "", "localhost", "127.0.0.1", "::1"}


def only_loopback(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Refuse to look up or connect to another host.

    Args:
        patch: sets an attribute; that of a test undoes it.
    """
    look_up = socket.getaddrinfo

    def check(host: object) -> None:
        if (host.decode() if isinstance(host, bytes) else host) not in LOCAL:
            raise socket.gaierror(socket.EAI_NONAME, f"a test tried to reach {host}: tests download nothing")

    def local_look_up(host: object, *more: object, **others: object) -> object:
        check(host)
        return look_up(host, *more, **others)  # type: ignore[arg-type]

    patch(socket, "getaddrinfo", local_look_up)
    for name in ("connect", "connect_ex", "sendto"):
        patch(socket.socket, name, _checked(getattr(socket.socket, name), check))


def _checked(original: Callable[..., object], check: Callable[[object], None]) -> Callable[..., object]:
    def local_only(self: socket.socket, *arguments: object) -> object:
        address = arguments[-1]
        if isinstance(address, tuple):
            check(address[0])
        return original(self, *arguments)

    return local_only
