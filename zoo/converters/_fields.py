"""What toolkits write as text: convolution stacks, omegaconf references and dictionaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, InputError, shown

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MAX_BLOCKS = 64
MAX_NUMBER = 65536
_TOKEN = re.compile(r"\s*(\d{1,6}|[\[\]()+*,])")
_REFERENCE = re.compile(r"\$\{\s*([\w.]+)\s*\}")

Block = tuple[int, int, int]


def parse_conv_layers(value: object) -> tuple[Block, ...]:
    """(channels, kernel, stride) of each block, from text such as "[(512,10,5)] + [(512,3,2)] * 4" or from a list.

    The text is read by a small grammar, never evaluated:
    sum = product {"+" product}; product = [number "*"] list {"*" number}; list = "[" block {"," block} [","] "]".

    Raises:
        CheckpointError: for anything else, and for more than 64 blocks or numbers above 65536.
    """
    if isinstance(value, str):
        blocks = _ConvGrammar(value).parse()
    elif isinstance(value, (list, tuple)):
        blocks = []
        for item in value:
            if not (isinstance(item, (list, tuple)) and len(item) == 3 and all(type(n) is int for n in item)):
                raise _refuse(value)
            blocks.append((item[0], item[1], item[2]))
    else:
        raise _refuse(value)
    if not 0 < len(blocks) <= MAX_BLOCKS or any(not 0 < n <= MAX_NUMBER for block in blocks for n in block):
        raise _refuse(value)
    return tuple(blocks)


def _refuse(value: object) -> CheckpointError:
    return CheckpointError(
        f"conv_feature_layers is {shown(value)}; expected a sum of lists of (channels, kernel, stride), "
        f"such as '[(512,10,5)] + [(512,3,2)] * 4', of at most {MAX_BLOCKS} blocks"
    )


class _ConvGrammar:
    """Recursive-descent reader of a convolution stack."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, list[str](), 0
        position, end = 0, len(text.rstrip())
        if end > 4096:
            raise _refuse(text)
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                raise _refuse(text)
            self.tokens.append(match[1])
            position = match.end()

    def parse(self) -> list[Block]:
        blocks = self.product()
        while self.accept("+"):
            blocks = blocks + self.product()
            self.bound(len(blocks))
        if self.at != len(self.tokens):
            raise _refuse(self.text)
        return blocks

    def product(self) -> list[Block]:
        times = 1
        if self.peek().isdigit():
            times = self.number()
            self.expect("*")
        blocks = self.list()
        while self.accept("*"):
            times *= self.number()
            self.bound(times)
        self.bound(len(blocks) * times)
        return blocks * times

    def list(self) -> list[Block]:
        self.expect("[")
        blocks: list[Block] = []
        while not self.accept("]"):
            blocks.append(self.block())
            if not self.accept(","):
                self.expect("]")
                break
        return blocks

    def block(self) -> Block:
        self.expect("(")
        channels = self.number()
        self.expect(",")
        kernel = self.number()
        self.expect(",")
        stride = self.number()
        self.accept(",")
        self.expect(")")
        return channels, kernel, stride

    def number(self) -> int:
        if not self.peek().isdigit():
            raise _refuse(self.text)
        self.at += 1
        return int(self.tokens[self.at - 1])

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def accept(self, token: str) -> bool:
        found = self.peek() == token
        self.at += found
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise _refuse(self.text)

    def bound(self, blocks: int) -> None:
        if blocks > MAX_BLOCKS:
            raise _refuse(self.text)


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a configuration; an empty one where there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def read_dictionary(path: Path) -> list[str]:
    """Symbols of a fairseq dictionary, the four specials first, which the file leaves out.

    A line is a symbol and its count, and `#fairseq:overwrite` where it may stand twice.

    Raises:
        InputError: when the file is no such dictionary.
    """
    symbols = list(SPECIALS)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is no fairseq dictionary: it is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rstrip().rpartition(" ")
        if not symbol or not count.isdecimal():
            raise InputError(f"{path} is no fairseq dictionary: line {number} is no symbol and its count")
        if symbol in symbols and not line.endswith("#fairseq:overwrite"):
            raise InputError(f"{path} holds {shown(symbol)} twice, the second time in line {number}")
        symbols.append(symbol)
    return symbols


def resolve(value: Any, *roots: Mapping[str, Any]) -> Any:
    """Follow an omegaconf reference such as "${task.normalize}" through the given roots, the first that has it.

    Returns None for what is missing: omegaconf's "???", and a reference that leads nowhere or in a circle.
    """
    for _ in range(16):
        if not isinstance(value, str):
            return value
        if value == "???":
            return None
        match = _REFERENCE.fullmatch(value)
        if match is None:
            return value
        value = next((found for root in roots if (found := look_up(root, match[1].lstrip("."))) is not None), None)
    return None


def look_up(root: Mapping[str, Any], path: str) -> Any:
    """What stands at a path such as "task.normalize", or None."""
    node: Any = root
    for part in path.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node
