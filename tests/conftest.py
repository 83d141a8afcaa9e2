"""What every test runs under: a fixed seed, no more threads than a small machine has, and no network."""

from __future__ import annotations

import os
import random
import socket

import numpy as np
import pytest
import torch

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached: a test that would download something fails and says so."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in {"localhost", "127.0.0.1", "::1"}:
            raise OSError(f"a test tried to reach {host}: tests download nothing")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
