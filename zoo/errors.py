"""Exceptions that callers can catch: every one is a `ZooError` with one clear sentence."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: object) -> str:
    """A value as a sentence names it: short, however large it is."""
    return _SHORT.repr(value)


def cut(text: str, length: int = 100) -> str:
    """The first `length` characters of a text of a file, as a sentence shows them."""
    return printable(text if len(text) <= length else text[: length - 3] + "...")


def printable(value: object) -> str:
    """A text on one line, with its control characters and broken bytes spelt out: names in a file may be hostile."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


class ZooError(Exception):
    """Base class of everything the zoo raises on purpose."""


class CheckpointError(ZooError):
    """A checkpoint cannot be read, recognised or converted."""


class ConfigError(ZooError):
    """A configuration names an unknown field or a value that no model can have."""


class UnknownModelError(ZooError):
    """No model has the name that was asked for."""


class InputError(ZooError, ValueError):
    """A waveform, a length or an option that a model cannot take."""


class AudioError(ZooError):
    """An audio file or array that cannot be used."""


class DownloadError(ZooError):
    """A file cannot be fetched.

    `status` is what the servers answered, where they agree.
    """

    status: int | None = None


class CacheError(DownloadError):
    """The cache cannot take a file."""


class FingerprintError(ZooError):
    """A model does not compute what was recorded of it, or the record cannot be used."""
