"""Mutation score of the golden tests: single-line faults in a copy of zoo/layers and zoo/models, and which are caught.

    python scripts/mutation.py --output docs/mutation.md      # make mutation: at most 30 minutes on two cores
    python scripts/mutation.py --list                          # the faults, without running them

Faults come from the syntax trees by the rules below, drawn by a fixed seed evenly over files, functions and kinds, and
from a list made by hand. Each goes into a copy of the repository, where the golden tests that execute its line are run,
the quickest first, until one fails. Where none does, everything that the models returned and that the tests compared is
held against what the unchanged code gives, bit for bit: a fault that changes nothing is equivalent, one that changes
something has been missed.

Left out is what these tests cannot be asked to see, recognised by its syntax (`Finder`) or by never being executed in
any of them; the page lists the latter.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MUTATED = ("zoo/layers", "zoo/models")
COPIED = ("zoo", "tests", "examples", "pyproject.toml")
SUITE = ("tests/golden/test_reference.py", "tests/golden/test_spectral.py", "tests/golden/test_wav2vec_u.py")
# Tests of the tests: they plant bugs of their own, or look at the data alone.
NOT_OF_THE_MODELS = "not planted_bug and not canary and not swapped_segmenters and not recorded_segmenters_differ"
SEED = 2026
TIMEOUT_S = 300

# --- faults ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What stands from `start` to before `end` (bytes) of a line is replaced by `new`."""

    path: str
    line: int
    start: int
    end: int
    new: str
    kind: str
    scope: str
    shown: str

    def apply(self, source: str) -> str:
        lines = source.encode().split(b"\n")
        old = lines[self.line - 1]
        lines[self.line - 1] = old[: self.start] + self.new.encode() + old[self.end :]
        return b"\n".join(lines).decode()


def shorten(line: bytes, start: int, end: int, new: str) -> str:
    """Old and new text of a line with some of what is around it."""
    before, old, after = (part.decode() for part in (line[:start], line[start:end], line[end:]))
    return f"{before.lstrip()[-24:]}[{old} => {new}]{after[:16]}"


OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
COMPARISONS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
FUNCTIONS = {
    "gelu": "relu", "relu": "gelu", "silu": "gelu", "glu": "silu", "sin": "cos", "cos": "sin", "minimum": "maximum",
    "min": "max", "max": "min", "amax": "amin", "ceil": "floor", "floor": "ceil", "round": "floor", "sum": "mean",
    "mean": "sum", "sqrt": "square", "rsqrt": "sqrt", "square": "abs", "all": "any", "any": "all", "log": "log1p",
}  # fmt: skip
# Names of what acts in training alone, in a traced graph alone, or on another device than a processor.
TRAINING = re.compile(r"drop(out)?(\b|_|s\b)|layerdrop|training|checkpointing|masking|_hide|_train_layer|requires_grad")
GRAPHS = re.compile(r"is_compiling|is_in_onnx_export|device\.type|is_grad_enabled|get_num_threads")
# Values that a model is made with: a checkpoint's replace them.
INITIAL = re.compile(r"\b(normal_|uniform_|init\.\w+|nn\.Parameter|kaiming\w*|xavier\w*|constant_)\(")
NUMBER = re.compile(r"[\d.e+\-* ()<]+")


class Finder:
    """Every fault that the rules make of one file.

    Left out by syntax: docstrings, annotations, decorators, imports, everything inside `raise` and conditions that
    guard nothing but a `raise` (tests/test_bad_input.py), what is named for training, for traced graphs or for other
    devices (tests/test_training.py, test_tracing.py), initial values, fields of configurations and presets
    (tests/snapshots), and module-level statements other than numeric constants.
    """

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source, self.lines = path, source, source.encode().split(b"\n")
        self.found: list[Fault] = []
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
                if NUMBER.fullmatch(self.text(node.value)):
                    self.visit(node.value, node.targets[0].id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.visit(node, "")

    def text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.source, node) or ""

    def add(self, first: Any, last: Any, new: str, kind: str, scope: str) -> None:
        """The code from the beginning of one node to the end of another replaced, if it is on one line."""
        self.cut((first.lineno, first.col_offset), (last.end_lineno, last.end_col_offset), new, kind, scope)

    def cut(self, start: tuple[int, int], end: tuple[int, int], new: str, kind: str, scope: str) -> None:
        if start[0] == end[0]:
            shown = shorten(self.lines[start[0] - 1], start[1], end[1], new)
            self.found.append(Fault(self.path, start[0], start[1], end[1], new, kind, scope, shown))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str, scope: str) -> None:
        """An operator between two nodes replaced."""
        assert left.end_lineno is not None and left.end_col_offset is not None
        if left.end_lineno != right.lineno:
            return
        gap = self.lines[left.end_lineno - 1][left.end_col_offset : right.col_offset].decode()
        if gap.count(old) == 1:
            at = left.end_col_offset + gap.index(old)
            self.cut((right.lineno, at), (right.lineno, at + len(old)), new, kind, scope)

    def visit(self, node: ast.AST, scope: str) -> None:
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)):
            return
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    self.visit(child, node.name)
            return
        if isinstance(node, ast.FunctionDef):
            scope = f"{scope}.{node.name}".lstrip(".")
            if TRAINING.search(node.name) or node.name in ("reset_parameters", "__post_init__", "check_limits"):
                return
            children: list[ast.AST] = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
            children += node.body
        elif isinstance(node, ast.If):
            text = self.text(node.test)
            refusal = all(isinstance(child, ast.Raise) for child in node.body) and not node.orelse
            seen = not (refusal or TRAINING.search(text) or GRAPHS.search(text))
            children = [node.test] * seen + [] if refusal else [node.test] * seen + node.body + node.orelse
        elif isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value else []
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign, ast.keyword, ast.IfExp)):
            text = self.text(node)
            if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or "check_limits" in text):
                return
            if INITIAL.search(text) or (isinstance(node, ast.IfExp) and TRAINING.search(self.text(node.test))):
                return
            if isinstance(node, ast.keyword) and (node.arg in ("device", "dtype") or TRAINING.search(text)):
                return
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and re.match(r"\s*self\.\w*(dropout|layerdrop)", text):
                return
        if isinstance(node, ast.Call) and re.search(r"Dropout$|requires_grad_$", self.text(node.func)):
            return
        if isinstance(node, ast.stmt):
            self.statement(node, scope)
        elif isinstance(node, ast.expr):
            self.expression(node, scope)
        for child in children:
            self.visit(child, scope)

    def statement(self, node: ast.stmt, scope: str) -> None:
        """A variable that is computed anew from itself keeps its value."""
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.value)):
                self.add(node, node, "pass", "statement left out", scope)

    def expression(self, node: ast.expr, scope: str) -> None:
        if isinstance(node, ast.BinOp):
            if type(node.op) in OPERATORS and not isinstance(node.left, ast.Constant | ast.JoinedStr | ast.Tuple):
                self.between(node.left, node.right, *OPERATORS[type(node.op)], "operator", scope)
            if isinstance(node.op, ast.Add) and not isinstance(node.right, ast.Constant):
                self.add(node, node, self.text(node.left), "summand left out", scope)
                self.add(node, node, self.text(node.right), "summand left out", scope)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            self.between(node.left, node.comparators[0], *COMPARISONS[type(node.ops[0])], "comparison", scope)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            self.between(node.values[0], node.values[1], old, new, "operator", scope)
        elif isinstance(node, ast.UnaryOp):
            self.add(node, node, self.text(node.operand), "negation left out", scope)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                self.add(node, node, str(not node.value), "truth value", scope)
            elif isinstance(node.value, int):
                self.add(node, node, str(node.value + 1), "off by one", scope)
            elif isinstance(node.value, float):
                value = node.value
                other = 1.0 if value == 0 else value * 100 if abs(value) < 1e-2 else value * 1.01
                self.add(node, node, repr(other), "number", scope)
        elif isinstance(node, ast.Call):
            self.call(node, scope)
        elif isinstance(node, ast.Slice):
            for bound in (node.lower, node.upper):
                if bound is not None and not (node.lower is None and node.upper is None):
                    self.add(bound, bound, "", "bound left out", scope)
        elif isinstance(node, ast.IfExp):
            self.add(node.body, node.orelse, self.text(node.body), "condition left out", scope)
            self.add(node.body, node.orelse, self.text(node.orelse), "condition left out", scope)

    def call(self, node: ast.Call, scope: str) -> None:
        arguments = node.args
        if len(arguments) >= 2 and not any(isinstance(a, ast.Starred) for a in arguments):
            first, second = (self.text(a) for a in arguments[:2])
            if first != second and all(isinstance(a, ast.Name | ast.Attribute) for a in arguments[:2]):
                self.add(arguments[0], arguments[1], f"{second}, {first}", "arguments swapped", scope)
        for word in node.keywords:
            if word.arg in ("eps", "keepdim", "periodic", "scale", "groups", "padding", "stride", "dilation", "bias"):
                self.drop_keyword(node, word, scope)
        if isinstance(node.func, ast.Attribute):
            name, text = node.func.attr, self.text(node.func)
            if name in FUNCTIONS:
                end = (node.func.end_lineno or 0, node.func.end_col_offset or 0)
                self.cut((end[0], end[1] - len(name)), end, FUNCTIONS[name], "other function", scope)
            one = len(arguments) == 1 and not node.keywords
            if text.startswith(("self.", "F.")) and one and not TRAINING.search(text):
                self.add(node, node, self.text(arguments[0]), "call left out", scope)
            if not text.startswith(("self.", "F.", "torch.", "nn.", "math.")) and name in (
                "masked_fill", "clamp", "transpose", "flip", "square", "sqrt", "abs", "relu", "long", "sort", "float",
            ):  # fmt: skip
                self.add(node, node, self.text(node.func.value), "call left out", scope)

    def drop_keyword(self, node: ast.Call, word: ast.keyword, scope: str) -> None:
        before = [a for a in (*node.args, *node.keywords) if a.end_lineno == word.lineno and a is not word]
        before = [a for a in before if a.end_col_offset and a.end_col_offset <= word.col_offset]
        if before and word.end_lineno is not None and word.end_col_offset is not None:
            start = max(a.end_col_offset or 0 for a in before)
            self.cut((word.lineno, start), (word.end_lineno, word.end_col_offset), "", "keyword left out", scope)


def candidates(path: str) -> list[Fault]:
    """The faults of a file that are valid Python and another program."""
    source = (ROOT / path).read_text(encoding="utf-8")
    original = ast.dump(ast.parse(source))
    found = []
    for fault in dict.fromkeys(Finder(path, source).found):
        try:
            changed = ast.parse(fault.apply(source))
        except SyntaxError:
            continue
        if ast.dump(changed) != original:
            found.append(fault)
    return found


def drawn(faults: list[Fault], count: int) -> list[Fault]:
    """Some of a file's faults, evenly over functions and kinds, none on the same line."""
    order = list(faults)
    random.Random(f"{SEED}/{faults[0].path if faults else ''}").shuffle(order)
    scopes, kinds, lines = Counter[str](), Counter[str](), set[int]()
    chosen = []
    while order and len(chosen) < count:
        fault = min(order, key=lambda f: (scopes[f.scope], kinds[f.kind]))
        order.remove(fault)
        if fault.line not in lines:
            chosen.append(fault)
            scopes[fault.scope] += 1
            kinds[fault.kind] += 1
            lines.add(fault.line)
    return chosen


# What a rule would hardly find: file -> text that stands on one of its lines only -> what to put there.
BY_HAND: dict[str, dict[str, str]] = {
    "zoo/layers/conv.py": {
        "(kernel // 2, (kernel - 1) // 2)": "((kernel - 1) // 2, kernel // 2)",
        "elif i == 0:": "elif i == len(layers) - 1:",
        "y[None, :, :n], self.num_groups": "y[None], self.num_groups",
        "vector_norm(v, dim=(0, 1), keepdim=True)": "vector_norm(v, dim=(0, 2), keepdim=True)",
    },
    "zoo/layers/attention.py": {
        "(self.q_proj, self.k_proj, self.v_proj)": "(self.k_proj, self.q_proj, self.v_proj)",
        "eight.reshape(*eight.shape[:3], 2, 4)": "eight.reshape(*eight.shape[:3], 4, 2)",
        ".permute(2, 0, 1)": ".permute(2, 1, 0)",
    },
    "zoo/layers/transformer.py": {
        "self.final_layer_norm(x + self.feed_forward(x))": "self.final_layer_norm(x + self.feed_forward(x.detach()))",
        "x + self.feed_forward(self.final_layer_norm(x))": "x + self.feed_forward(self.layer_norm(x))",
        "self.add_positions(x, padded if exact else None)": "self.add_positions(x, padded)",
        "states[depth] = self.leave(x)": "states[depth] = x",
    },
    "zoo/layers/lengths.py": {
        "starts[None, :] >= self.lengths[:, None]": "starts[None, :] > self.lengths[:, None]",
        "if eps == LAYER_NORM_EPS:": "if eps != LAYER_NORM_EPS:",
    },
    "zoo/layers/spectral.py": {
        "place > last, (2 * last - place)": "place > last, (2 * last - place + 1)",
        "periodic=False, device": "periodic=True, device",
    },
    "zoo/models/_batch.py": {
        "waveforms = waveforms[:, :size]": "waveforms = waveforms[:, : size + 1]",
    },
    "zoo/models/_speech_encoder.py": {
        "x = self.feature_extractor(x, valid if exact else None)": "x = self.feature_extractor(x, valid)",
        "if exact and mask is not None:": "if False:",
        "waveforms.masked_fill(valid.padding_mask(waveforms.shape[1]), 0.0)": "waveforms.nan_to_num(0.0)",
        "if not self.config.attention_mask:": "if False:",
        "PreNormEncoder if config.norm_first else PostNormEncoder":
            "PostNormEncoder if config.norm_first else PreNormEncoder",
    },
    "zoo/models/conformer.py": {
        "x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))": "x = x + 0.5 * self.ffn2(self.ffn1_layer_norm(x))",
        "angles = torch.cat((angles, angles), 1)[:, None, :]": "angles = angles.repeat_interleave(2, 1)[:, None, :]",
    },
    "zoo/models/tera.py": {
        "chunks.bias(x)": "chunks.bias(x * 0 + 1)",
        "self.LayerNorm[i](x) if hasattr": "self.LayerNorm[0](x) if hasattr",
        "joined = {i: state.masked_fill(padded, 0.0) for i, state in joined.items()}": "pass",
    },
    "zoo/models/data2vec2.py": {
        "(slope * -distance * scale).to(dtype)": "(slope * -distance).to(dtype)",
        'super().blank(x, mask) if self.padding == "exact" else x': "super().blank(x, mask)",
    },
    "zoo/models/wav2vec_u.py": {
        "normalised[valid] = self.bn(x[valid])": "normalised[valid] = self.bn(x[valid]) * 1.0001",
    },
    "zoo/models/baseline.py": {
        "(x.to(self._like.dtype),)": "(x.to(self._like.dtype) * 1.0001,)",
    },
}  # fmt: skip


def by_hand() -> list[Fault]:
    """The list, with the places in the files as they are now."""
    found = []
    for path, old, new in ((path, old, new) for path, table in BY_HAND.items() for old, new in table.items()):
        lines = (ROOT / path).read_text(encoding="utf-8").split("\n")
        places = [(n, line.encode().index(old.encode())) for n, line in enumerate(lines, 1) if old in line]
        if len(places) != 1:
            raise SystemExit(f"mutation: {old!r} stands {len(places)} times in {path}, expected once: amend BY_HAND")
        ((line, start),) = places
        end = start + len(old.encode())
        text = shorten(lines[line - 1].encode(), start, end, new)
        found.append(Fault(path, line, start, end, new, "by hand", "", text))
    return found


# --- the pytest plugin -------------------------------------------------------------------------------------------


class Plugin:
    """Traces which lines of the mutated folders each test executes, and records what models return and tests compare.

    Args:
        trace: JSON file to write: lines and seconds of each test; None: nothing is traced.
        record: npz file to write, once no test has failed; None: nothing is recorded.
    """

    def __init__(self, trace: Path | None, record: Path | None) -> None:
        self.trace, self.record = trace, record
        self.executed: dict[str, dict[str, list[int]]] = {}
        self.seconds: dict[str, float] = {}
        self.arrays: dict[str, Any] = {}
        self.test = ""
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_sessionstart(self) -> None:
        import torch

        import zoo

        if not Path(zoo.__file__).is_relative_to(Path.cwd()):
            raise RuntimeError(f"{zoo.__file__} is not the copy in {Path.cwd()}")
        torch.set_num_threads(1)  # the same numbers in every run
        if self.record:
            self.record_everything()

    def keep(self, name: str, value: Any) -> None:
        import numpy as np

        key = f"{self.test}|{name}"
        self.counts[key] += 1
        array = value.detach().numpy() if hasattr(value, "detach") else value
        self.arrays[f"{key}|{self.counts[key]}"] = np.array(array)

    def record_everything(self) -> None:
        import torch

        from tests.golden import compare
        from zoo.models._family import Model

        def returned(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(module, Model):
                parts = (*output.hidden_states, output.lengths, output.logits)
                for i, value in enumerate(parts):
                    if value is not None:
                        self.keep(f"{type(module).__name__} output {i}", value)

        torch.nn.modules.module.register_module_forward_hook(returned)
        check, close = compare.Comparison.check, torch.testing.assert_close

        def checked(result: Any, stage: str, got: Any, *rest: Any, **options: Any) -> None:
            self.keep(stage, got)
            check(result, stage, got, *rest, **options)

        def compared(got: Any, *rest: Any, **options: Any) -> None:
            self.keep("assert_close", got)
            close(got, *rest, **options)

        compare.Comparison.check = checked  # type: ignore[method-assign, assignment]
        torch.testing.assert_close = compared  # type: ignore[assignment]

    def pytest_runtest_setup(self, item: Any) -> None:
        self.test = item.nodeid

    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        if not self.trace:
            return None
        from zoo.models import _family

        _family._HINTS.clear()  # what is kept between tests would hide lines from all but the first
        for name in [name for name in sys.modules if name.startswith("zoo")]:
            for value in list(vars(sys.modules[name]).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
        lines: dict[str, set[int]] = defaultdict(set)
        folders = tuple(str(Path.cwd() / folder) for folder in MUTATED)

        def inside(frame: Any, event: str, argument: Any) -> Any:
            lines[frame.f_code.co_filename].add(frame.f_lineno)
            return inside

        def called(frame: Any, event: str, argument: Any) -> Any:
            return inside(frame, event, argument) if frame.f_code.co_filename.startswith(folders) else None

        names = pyfuncitem._fixtureinfo.argnames
        sys.settrace(called)
        try:
            pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
        finally:
            sys.settrace(None)
        self.executed[pyfuncitem.nodeid] = {
            Path(name).relative_to(Path.cwd()).as_posix(): sorted(found) for name, found in lines.items()
        }
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration
        self.note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self.note(report)

    def note(self, report: Any) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            words = (crash.message if crash else str(report.longrepr)).strip().splitlines()
            self.failed.append(f"{report.nodeid}\n{words[0] if words else ''}")

    def pytest_sessionfinish(self) -> None:
        import numpy as np

        if self.trace:
            self.trace.write_text(json.dumps({"executed": self.executed, "seconds": self.seconds}))
        if self.record and not self.failed:
            np.savez(self.record, **self.arrays)
        Path("failed.txt").write_text("\n".join(self.failed))


# --- runs --------------------------------------------------------------------------------------------------------

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "torch._dynamo", "numpy", "pytest", "safetensors.torch", "soundfile", "requests", "tqdm"]


@dataclass(frozen=True)
class Outcome:
    """How pytest ended: the test that failed first, and with what."""

    code: int
    test: str = ""
    error: str = ""


def child(folder: Path, arguments: list[str], trace: Path | None, record: Path | None) -> None:
    """Runs pytest in a copy of the repository, in a process that has imported torch but not zoo."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    for name in [name for name in os.environ if name.startswith(("ZOO_", "PYTEST"))]:
        del os.environ[name]
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    import pytest

    # Not sys.exit: nothing may wait for what the tests left behind.
    os._exit(pytest.main(arguments, plugins=[Plugin(trace, record)]))


def run_tests(folder: Path, tests: list[str], trace: Path | None = None, record: Path | None = None) -> Outcome:
    """Run golden tests in a copy of the repository until one fails."""
    arguments = [
        "-q",
        "-x",
        "-W",
        "ignore",
        *(f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "benchmark")),
    ]
    if tests == list(SUITE):
        arguments += ["-k", NOT_OF_THE_MODELS]
    failed = folder / "failed.txt"
    failed.unlink(missing_ok=True)
    process = SERVER.Process(target=child, args=(folder, [*arguments, *tests], trace, record))
    process.start()
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        return Outcome(1, "", f"no end within {TIMEOUT_S} s")
    test, error = ([*failed.read_text().split("\n"), "", ""] if failed.exists() else ["", ""])[:2]
    if process.exitcode and not test:
        error = (folder / "output.txt").read_text(errors="replace").strip().splitlines()[-1]
    return Outcome(process.exitcode or 0, test, error)


def copy(folder: Path) -> Path:
    """What the golden tests need, without anything that Python keeps."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


@dataclass
class Result:
    """What became of a fault: caught, equivalent or missed."""

    fault: Fault
    verdict: str
    outcome: Outcome
    size: str = ""  # of the largest change of a missed one
    seconds: float = field(default=0.0, compare=False)


def difference(before: Path, after: Path) -> str:
    """The largest difference of a record from a larger one; empty when what both have is the same, bit for bit."""
    import numpy as np

    worst, where, other = -1.0, "", 0
    with np.load(before) as old, np.load(after) as new:
        tests = {name.split("|")[0] for name in new.files}
        if {name for name in old.files if name.split("|")[0] in tests} != set(new.files):
            return "other outputs"
        for name in new.files:
            a, b = old[name], new[name]
            if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes():
                continue
            other += 1
            if a.shape != b.shape:
                return f"other shape of {name}"
            size = float(np.abs(np.nan_to_num(a).astype(float) - np.nan_to_num(b).astype(float)).max(initial=0.0))
            if size > worst:
                worst, where = size, name
    return f"{other} of the recorded arrays, by {worst:.1e} at most ({where})" if other else ""


def judge(fault: Fault, folder: Path, tests: list[str], baseline: Path) -> Result:
    """Run the tests that meet a fault."""
    begun = time.monotonic()
    target = folder / fault.path
    source = target.read_text(encoding="utf-8")
    record = folder / "record.npz"
    try:
        target.write_text(fault.apply(source), encoding="utf-8")
        outcome = run_tests(folder, tests, record=record)
        if outcome.code:
            return Result(fault, "caught", outcome, seconds=time.monotonic() - begun)
        size = difference(baseline, record)
        return Result(fault, "missed" if size else "equivalent", outcome, size, time.monotonic() - begun)
    finally:
        target.write_text(source, encoding="utf-8")
        record.unlink(missing_ok=True)


def quota(faults: list[Fault], share: float) -> int:
    """How many faults a file gets: as the root of how many there are."""
    return min(len(faults), round(share * len(faults) ** 0.5 + 0.49))


def unexecuted(executed: dict[str, set[int]], faults: dict[str, list[Fault]]) -> dict[str, dict[str, int]]:
    """File -> function -> faults that no golden test would meet."""
    missing: dict[str, dict[str, int]] = {}
    for path, found in faults.items():
        for fault in found:
            if fault.line not in executed[path] and not fault.scope.isupper():
                counts = missing.setdefault(path, {})
                counts[fault.scope] = counts.get(fault.scope, 0) + 1
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation score of the golden tests.")
    parser.add_argument("--output", type=Path, help="page to write; without it a summary is printed")
    parser.add_argument("--share", type=float, default=0.7, help="faults per file are this times a square root")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="list the drawn faults and run none")
    parser.add_argument("--only", default="", help="only faults whose file or text contains this")
    args = parser.parse_args()
    begun = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    SERVER.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as name:
        folders = [copy(Path(name) / str(i)) for i in range(args.workers)]
        trace, baseline, again = (Path(name) / file for file in ("trace.json", "baseline.npz", "again.npz"))
        with ThreadPoolExecutor(len(folders)) as pool:
            traced = pool.submit(run_tests, folders[0], list(SUITE), trace)
            first = pool.submit(run_tests, folders[-1], list(SUITE), None, baseline)
            for run in (traced.result(), first.result()):
                if run.code:
                    raise SystemExit(f"mutation: the unchanged code fails {run.test}: {run.error}")
        facts = json.loads(trace.read_text())
        executed: dict[str, set[int]] = defaultdict(set)
        for lines_of in facts["executed"].values():
            for path, numbers in lines_of.items():
                executed[path].update(numbers)
        paths = sorted(p.relative_to(ROOT).as_posix() for folder in MUTATED for p in (ROOT / folder).glob("*.py"))
        every = {path: candidates(path) for path in paths}
        met = {p: [f for f in found if f.line in executed[p] or f.scope.isupper()] for p, found in every.items()}
        faults = [f for path in paths for f in drawn(met[path], quota(met[path], args.share))]
        taken = {(f.path, f.line, f.new) for f in faults}
        faults += [f for f in by_hand() if (f.path, f.line, f.new) not in taken]
        faults = [f for f in faults if args.only in f.path or args.only in f.shown]
        if args.list:
            print("\n".join(f"{f.path}:{f.line} {f.kind}: {f.shown}" for f in faults))
            return 0

        free: SimpleQueue[Path] = SimpleQueue()
        for folder in folders:
            free.put(folder)

        def tests_of(fault: Fault) -> list[str]:
            """The tests that execute a fault's line, or for a constant any line of its file, the quickest first."""
            hits = [
                test
                for test, lines_of in facts["executed"].items()
                if fault.line in lines_of.get(fault.path, ()) or (fault.scope.isupper() and fault.path in lines_of)
            ]
            return sorted(hits, key=lambda test: facts["seconds"][test])

        def work(fault: Fault) -> Result:
            folder = free.get()
            try:
                result = judge(fault, folder, tests_of(fault), baseline)
            finally:
                free.put(folder)
            print(f"{result.verdict:10s} {result.seconds:5.0f} s  {fault.path}:{fault.line}  {fault.shown}  "
                  f"{result.outcome.test} {result.size}", flush=True)  # fmt: skip
            return result

        def repeated() -> None:
            folder = free.get()
            run_tests(folder, list(SUITE), record=again)
            free.put(folder)

        with ThreadPoolExecutor(args.workers) as pool:
            second = pool.submit(repeated)
            results = list(pool.map(work, faults))
            second.result()
        if size := difference(baseline, again):
            raise SystemExit(
                f"mutation: two runs of the unchanged code differ in {size}; nothing can be called equivalent"
            )
    minutes = (time.monotonic() - begun) / 60
    page = report(results, every, unexecuted(executed, every), minutes=minutes, share=args.share)
    if args.output:
        args.output.write_text(page, encoding="utf-8")
    else:
        print(page)
    return 0


# --- the page ----------------------------------------------------------------------------------------------------

PAGE = """# Mutation score of the golden tests

**{caught} of {changing} faults that change an output are caught: {score:.1f} %.** {all} single-line faults in
`zoo/layers` and `zoo/models`; {equivalent} of them change nothing.

Written by `make mutation` (`scripts/mutation.py`), {date}, torch {torch}, Python {python}, {minutes:.0f} minutes.
{numbers} were caught by a comparison of numbers, {exceptions} by an exception that they raised.

The syntax trees give the faults: operators and comparisons exchanged, numbers and axes changed, negations, calls,
summands, bounds, conditions, keywords and statements left out, arguments swapped, functions replaced. They are drawn
with seed {seed}, from each file as many as {share} times the square root of what there is, evenly over functions and
kinds, and joined by some made by hand. Not drawn from: docstrings, annotations, refusals, what acts in training, in
traced graphs or on other devices alone, initial values, configurations and presets (`Finder` says how each is
recognised), and lines that no golden test executes (listed below).

Equivalent means: everything that the models return and that the tests compare, in every recorded case that executes
the line, in float32, is the same bit for bit. Two runs of the unchanged code are the same bit for bit, too.

| file | faults that the rules give | tried | caught | equivalent | missed |
|---|---|---|---|---|---|
"""


def code(text: str) -> str:
    """Text as code in a table."""
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def report(
    results: list[Result], every: dict[str, list[Fault]], missing: dict[str, dict[str, int]], **facts: Any
) -> str:
    """The page."""
    import torch

    count = Counter(result.verdict for result in results)
    caught = [result for result in results if result.verdict == "caught"]
    numbers = sum(result.outcome.error.startswith(("AssertionError", "assert")) for result in caught)
    changing = count["caught"] + count["missed"]
    page = PAGE.format(
        caught=count["caught"],
        changing=changing,
        score=100 * count["caught"] / max(changing, 1),
        all=len(results),
        equivalent=count["equivalent"],
        date=date.today().isoformat(),
        torch=torch.__version__,
        python=".".join(map(str, sys.version_info[:2])),
        numbers=numbers,
        exceptions=len(caught) - numbers,
        seed=SEED,
        **facts,
    )
    for path in every:
        mine = Counter(result.verdict for result in results if result.fault.path == path)
        if every[path] or mine:
            figures = (len(every[path]), sum(mine.values()), mine["caught"], mine["equivalent"], mine["missed"])
            page += f"| `{path}` | {' | '.join(map(str, figures))} |\n"
    for verdict, title, last in (
        ("missed", "Missed", "changes"),
        ("equivalent", "Equivalent", ""),
        ("caught", "Caught", "by"),
    ):
        mine_too = [result for result in results if result.verdict == verdict]
        if mine_too:
            page += f"\n## {title}\n\n| place | kind | fault | {last} |\n|---|---|---|---|\n"
        for r in mine_too:
            end = r.size or r.outcome.test.removeprefix("tests/golden/") or r.outcome.error
            place = f"`{r.fault.path}:{r.fault.line}`"
            page += f"| {place} | {r.fault.kind} | {code(r.fault.shown)} | {code(end) if end else ''} |\n"
    page += "\n## Lines that no golden test executes\n\nFunction, and how many faults the rules give there.\n\n"
    for path, scopes in missing.items():
        page += f"- `{path}`: " + ", ".join(f"`{scope}` {n}" for scope, n in sorted(scopes.items())) + "\n"
    return page


if __name__ == "__main__":
    sys.exit(main())
