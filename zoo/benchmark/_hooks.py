"""Hooks: what a caller puts in place of a part, as a callable or by its import path with arguments from JSON."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from zoo.errors import InputError, cut, shown


def resolve(hook: str | Callable[..., Any], what: str) -> Callable[..., Any]:
    """The callable that "module:name" names; modules of the current folder are found too.

    Args:
        hook: a callable, or its import path.
        what: the kind of hook, for messages.

    Raises:
        InputError: when there is no such module or callable.
    """
    if callable(hook):
        return hook
    module, _, name = str(hook).partition(":")
    if not module or not name:
        raise InputError(f"the {what} hook {shown(hook)} is neither a callable nor module:name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the {what} hook {shown(hook)} cannot be imported: {cut(str(error))}") from None
    if not callable(found):
        raise InputError(f"the {what} hook {shown(hook)} is {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def call(hook: Callable[..., Any], what: str, /, *arguments: Any, **options: Any) -> Any:
    """What a hook gives.

    Args:
        hook: a callable.
        what: the kind of hook, for messages.
        arguments: of the hook.
        options: its keyword arguments.

    Raises:
        InputError: when it does not take these.
    """
    try:
        inspect.signature(hook).bind(*arguments, **options)
    except ValueError:
        pass  # of a compiled function, which does not say what it takes
    except TypeError as error:
        given = ", ".join(options) or "no options"
        raise InputError(
            f"the {what} hook {name(hook)} does not take what it is given ({error}); given: {given}"
        ) from None
    return hook(*arguments, **options)


def takes(hook: Callable[..., Any], option: str, *, named: bool = False) -> bool:
    """Whether a hook has a keyword argument of this name; if it must be `named`, one that takes any does not count."""
    try:
        parameters = inspect.signature(hook).parameters
    except ValueError:
        return False
    return option in parameters or (not named and any(one.kind is one.VAR_KEYWORD for one in parameters.values()))


def options(text: str | Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """Keyword arguments from a JSON object, or from a mapping as it is.

    Raises:
        InputError: when the text is no JSON object.
    """
    if text is None:
        return {}
    if isinstance(text, Mapping):
        return dict(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the options of the {what} hook are no JSON ({error}): {cut(text)}") from None
    if not isinstance(value, dict):
        raise InputError(f"the options of the {what} hook must be a JSON object such as {{}}; found {cut(text)}")
    return value


def name(hook: object) -> str:
    """How a result file names a hook."""
    if isinstance(hook, str):
        return hook
    if isinstance(hook, partial):
        return f"{name(hook.func)} {hook.keywords}"
    return f"{getattr(hook, '__module__', type(hook).__module__)}:{getattr(hook, '__qualname__', type(hook).__name__)}"
