"""Rules that no linter knows: each is checked on every file of zoo/ or tests/, and on samples that must break it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLKITS = {"fairseq", "omegaconf", "hydra", "s3prl", "transformers", "torchaudio", "espnet"}
# The direction of imports: a part may import itself and parts of a lower level. What is not named is the public
# interface and what only it needs; its files may import each other.
LEVELS = {
    "errors": 0,
    "_digest": 0,
    "_tensors": 1,
    "_safetensors": 1,
    "_native": 2,
    "layers": 1,
    "models": 2,
    "_registry": 3,
    "converters": 4,
    "_cache": 3,
    "_download": 4,
    "_repository": 5,
    "benchmark": 7,
    "compat": 8,
}
REST = 6
COMMAND_LINE_FILES = {"__main__", "_cli", "_commands", "convert"}

Check = Callable[[str, ast.Module], Iterator[str]]


@cache
def sources(folder: str) -> dict[str, ast.Module]:
    """Module name -> syntax tree, for every file of a folder; a package's own file ends in `.__init__`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Absolute names of what `module` imports anywhere, also inside functions: modules, or names in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                origin = ".".join([*module.split(".")[: -node.level], *filter(None, [origin])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func).rpartition(".")[2] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def dotted(node: ast.expr) -> str:
    """The dotted name that an expression spells; what is no name is left empty: `f().eval` gives `.eval`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def top(module: str) -> str:
    return module.partition(".")[0]


def part(module: str) -> str:
    """The part of the package that a module belongs to: `zoo.layers.conv` -> `layers`, `zoo` -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def imports_go_one_way(module: str, tree: ast.Module) -> Iterator[str]:
    here = part(module)
    for name in imports(module, tree):
        if top(name) != "zoo" or part(name) == here:
            continue
        if here == "benchmark":
            if part(name) in {"layers", "models", "converters"} or (part(name).startswith("_") and "." in name):
                yield f"benchmark code imports {name}, which is not public"
        elif LEVELS.get(part(name), REST) > LEVELS.get(here, REST):
            yield f"imports {name}, which stands above it"


def layers_import_only_torch(module: str, tree: ast.Module) -> Iterator[str]:
    if part(module) != "layers":
        return
    for name in imports(module, tree):
        ours = top(name) == "zoo" and part(name) in {"errors", "layers"}
        if not ours and top(name) != "torch" and top(name) not in sys.stdlib_module_names:
            yield f"a layer imports {name}"


def families_are_independent(module: str, tree: ast.Module) -> Iterator[str]:
    def family(name: str) -> str | None:
        parts = name.split(".")
        return parts[2] if parts[:2] == ["zoo", "models"] and len(parts) > 2 and not parts[2].startswith("_") else None

    if family(module) is None:
        return
    for name in imports(module, tree):
        if family(name) not in {None, family(module)}:
            yield f"a family imports the family {name}"


def no_toolkit_is_imported(module: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"imports {name}" for name in imports(module, tree) if top(name) in TOOLKITS)


def no_assert(module: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"line {node.lineno}: assert" for node in ast.walk(tree) if isinstance(node, ast.Assert))


def nothing_runs_foreign_code(module: str, tree: ast.Module) -> Iterator[str]:
    for name in imports(module, tree):
        if top(name) in {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib"}:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
            yield from (f"line {node.lineno}: torch.load" for alias in node.names if alias.name == "load")
        elif isinstance(node, ast.Attribute) and dotted(node) in {"torch.load", "torch.serialization.load"}:
            yield f"line {node.lineno}: torch.load"
        elif isinstance(node, ast.Attribute) and dotted(node) in {"builtins.eval", "builtins.exec"}:
            yield f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.Call) and dotted(node.func) in {"eval", "exec", "compile"}:
            yield f"line {node.lineno}: {dotted(node.func)}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_false(node.value):
            yield f"line {node.lineno}: allow_pickle"


def weights_are_loaded_strictly(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).endswith("load_state_dict"):
            lax = [word for word in node.keywords if word.arg == "strict" and is_false(word.value)]
            if lax or any(is_false(argument) for argument in node.args[1:2]):
                yield f"line {node.lineno}: load_state_dict(strict=False)"


def only_command_lines_print(module: str, tree: ast.Module) -> Iterator[str]:
    if part(module) in COMMAND_LINE_FILES or module.split(".")[-1] in COMMAND_LINE_FILES:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "print":
            yield f"line {node.lineno}: print"


def public_things_are_described(module: str, tree: ast.Module) -> Iterator[str]:
    def undescribed(body: list[ast.stmt], owner: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            marks = {dotted(mark).rpartition(".")[2] for mark in node.decorator_list}
            if not ast.get_docstring(node) and not marks & {"overload", "override", "setter"}:
                yield f"line {node.lineno}: {owner}{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from undescribed(node.body, f"{owner}{node.name}.")

    yield from undescribed(tree.body, "")


def no_test_is_skipped(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        name = node.name if isinstance(node, ast.alias) else dotted(node) if isinstance(node, ast.expr) else ""
        if name.rpartition(".")[2] in {"skip", "skipif", "skipIf", "skipUnless", "xfail", "importorskip", "SkipTest"}:
            yield f"{name} is used"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


# Each rule with samples (module, source) that break it, and samples that must not. The last one is for tests/.
RULES: dict[Check, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    imports_go_one_way: (
        [
            ("zoo.errors", "import zoo.layers"),
            ("zoo.layers.conv", "from zoo.models import hubert"),
            ("zoo.layers.conv", "from ..models.hubert import FAMILY"),
            ("zoo.models.hubert", "def late():\n    from zoo.converters import fairseq"),
            ("zoo.models.hubert", "import zoo"),
            ("zoo._registry", "from zoo import converters"),
            ("zoo.converters.fairseq", "from zoo import load"),
            ("zoo.converters.fairseq", "import zoo._checkpoint"),
            ("zoo._audio", "import zoo.benchmark.features"),
            ("zoo._audio", "import zoo.compat.s3prl"),
            ("zoo.benchmark.features", "from zoo._audio import read"),
            ("zoo.benchmark.features", "from zoo.models import hubert"),
            ("zoo.benchmark.features", "import importlib\nimportlib.import_module('zoo.layers')"),
        ],
        [
            ("zoo.errors", "import math"),
            ("zoo.layers.conv", "from zoo.errors import InputError\nfrom .lengths import frame_count"),
            ("zoo.models.hubert", "from zoo import errors\nfrom zoo.layers import conv"),
            ("zoo.converters.fairseq", "from . import _rows\nfrom zoo._registry import find"),
            ("zoo.__init__", "from zoo.converters import fairseq\nfrom zoo import _audio"),
            ("zoo.benchmark.features", "import zoo\nfrom zoo import load, errors\nfrom . import metrics"),
        ],
    ),
    layers_import_only_torch: (
        [
            ("zoo.layers.conv", "import numpy as np"),
            ("zoo.layers.conv", "from zoo.models import hubert"),
            ("zoo.layers.conv", "import safetensors.torch"),
        ],
        [
            ("zoo.layers.conv", "import math\nimport torch.nn.functional as F\nfrom zoo.errors import InputError"),
            ("zoo.models.hubert", "import numpy"),
        ],
    ),
    families_are_independent: (
        [
            ("zoo.models.hubert", "from zoo.models.wav2vec2 import PRESETS"),
            ("zoo.models.hubert", "from .wav2vec2 import PRESETS"),
            ("zoo.models.hubert", "from . import wav2vec2"),
        ],
        [
            ("zoo.models.hubert", "from zoo.models._family import Family\nfrom . import _speech_encoder"),
            ("zoo.models.__init__", "from zoo.models import hubert, wav2vec2"),
        ],
    ),
    no_toolkit_is_imported: (
        [
            ("zoo._audio", "import torchaudio"),
            ("zoo._audio", "try:\n    from transformers import AutoModel\nexcept ImportError:\n    pass"),
            ("zoo._audio", "import importlib\nimportlib.import_module('fairseq.models')"),
            ("zoo._audio", "__import__('omegaconf')"),
            *(("zoo._audio", f"import {toolkit}.anything") for toolkit in sorted(TOOLKITS)),
        ],
        [("zoo.converters.fairseq", "from zoo.converters import fairseq\nimport torch\nname = 'fairseq'")],
    ),
    no_assert: ([("zoo._audio", "def f(x):\n    assert x")], [("zoo._audio", "def f(x):\n    torch._assert(x)")]),
    nothing_runs_foreign_code: (
        [
            ("zoo._audio", "eval('1')"),
            ("zoo._audio", "exec('1')"),
            ("zoo._audio", "import builtins\nbuiltins.eval('1')"),
            ("zoo._audio", "import pickle"),
            ("zoo._audio", "from pickle import Unpickler"),
            ("zoo._audio", "import torch\ntorch.load('a.pt')"),
            ("zoo._audio", "import torch\nread = torch.load"),
            ("zoo._audio", "from torch import load"),
            ("zoo._audio", "from torch.serialization import load as read"),
            ("zoo._audio", "import numpy\nnumpy.load('a.npy', allow_pickle=True)"),
        ],
        [
            ("zoo._audio", "import pickletools\nimport re\nre.compile('a')"),
            ("zoo._audio", "build().eval()\nmodel.eval()\nnumpy.load('a', allow_pickle=False)"),
        ],
    ),
    weights_are_loaded_strictly: (
        [
            ("zoo._audio", "model.load_state_dict(state, strict=False)"),
            ("zoo._audio", "model.load_state_dict(state, False)"),
        ],
        [("zoo._audio", "model.load_state_dict(state, assign=True)\nzip(a, b, strict=False)")],
    ),
    only_command_lines_print: (
        [("zoo._audio", "def f():\n    print('x')"), ("zoo.__init__", "print('x')")],
        [("zoo.__main__", "print('x')"), ("zoo.convert", "print('x')"), ("zoo._audio", "sys.stderr.write('x')")],
    ),
    public_things_are_described: (
        [
            ("zoo._audio", "def read():\n    return 1"),
            ("zoo._audio", "class Reader:\n    pass"),
            ("zoo._audio", "class Reader:\n    '''Reads.'''\n    def read(self):\n        return 1"),
            ("zoo._audio", "class Reader:\n    '''Reads.'''\n    @property\n    def rate(self):\n        return 1"),
        ],
        [
            ("zoo._audio", "def _read():\n    return 1\nclass _Reader:\n    def read(self):\n        return 1"),
            ("zoo._audio", "class Reader:\n    '''Reads.'''\n    def __len__(self):\n        return 1"),
        ],
    ),
    no_test_is_skipped: (
        [
            ("tests.test_a", "import pytest\npytest.skip('no')"),
            ("tests.test_a", "import pytest\nnumpy = pytest.importorskip('numpy')"),
            ("tests.test_a", "from pytest import skip as leave"),
            ("tests.test_a", "import pytest\n@pytest.mark.skipif(True, reason='')\ndef test_a():\n    pass"),
            ("tests.test_a", "import pytest\npytestmark = [pytest.mark.xfail]"),
        ],
        [("tests.test_a", "import pytest\n@pytest.mark.slow\ndef test_skipping_works():\n    note = 'skip'")],
    ),
}


def test_the_source_is_found() -> None:
    assert {"zoo.__init__", "zoo.errors", "zoo.layers.__init__", "zoo.models.hubert"} <= sources("zoo").keys()
    assert {"tests.test_house_rules", "tests.test_isolation"} <= sources("tests").keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Check) -> None:
    folder = "tests" if rule is no_test_is_skipped else "zoo"
    found = [f"{module}: {text}" for module, tree in sources(folder).items() for text in rule(module, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_fires_on_what_breaks_it(rule: Check) -> None:
    breaking, keeping = RULES[rule]
    for module, source in breaking:
        assert list(rule(module, ast.parse(source))), f"not noticed in {module}: {source}"
    for module, source in keeping:
        assert not list(rule(module, ast.parse(source))), f"refused in {module}: {source}"
