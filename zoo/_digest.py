"""Hashes of files, computed beside other work."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Thread

PIECE_BYTES = 1 << 20


class Digest:
    """SHA-256 of the bytes of files, one after the other, in a thread of its own."""

    LENGTH = 64  # hexadecimal digits

    def __init__(self, *paths: Path) -> None:
        self._paths, self._hash = paths, hashlib.sha256()
        self._error: OSError | None = None
        self._stopped = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        piece = memoryview(bytearray(PIECE_BYTES))
        try:
            for path in self._paths:
                with path.open("rb", buffering=0) as file:
                    while not self._stopped and (count := file.readinto(piece)):
                        self._hash.update(piece[:count])
        except OSError as error:
            self._error = error

    def result(self) -> str:
        """In hexadecimal, when it is there.

        Raises:
            OSError: when a file cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def stop(self) -> None:
        """Nobody needs it any more."""
        self._stopped = True
        self._thread.join()
