"""Checkpoints that zoo.convert writes for another toolkit, loaded and run by that toolkit.

Runs in the toolkit's own environment (tests/golden/README.md), in which the zoo's requirements are installed too:

    PYTHONPATH=. python scripts/live_export.py --toolkit transformers

Every genuine checkpoint of tests/data and every lively case of tests/golden/data is written for the toolkit, loaded by
the toolkit's own loader, run on real speech, and compared with `zoo.load` of the original: hidden states, and logits
where there are some. Prints a Markdown table. Exit status 1 if the loader complains or anything differs by more than
the golden table allows, and by more than float32 differs from float64 in that model. A model that the toolkit does not
have is refused by `zoo.convert`; the table has the reason.

A toolkit is a module `scripts/live/<toolkit>.py` with `TARGET`, what `zoo.convert --to` calls it, and
`load(path, work)`: given what was written and an empty folder, it returns a callable that takes a waveform (S,) (a
wav2vec-U generator: features (T, D)), not normalised, and returns hidden states as the zoo orders them, [0] entering
the first layer and [L] after the final norm, each (T, D) or (1, T, D). The callable may have attributes: `kind`, the
class that was loaded; `logits`, which takes the same and returns (T, V) or (1, T, V).
`load` raises AssertionError when the loader complains.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import importlib
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

import zoo
from tests.golden.compare import TOLERANCES, Case, case_names
from zoo import convert
from zoo.converters import dialects, open_conversion
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parent.parent
SPEECH = ("2412-153948-0000.flac", "2412-153948-0001.flac")
SECONDS = 4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    toolkits = sorted(path.stem for path in (Path(__file__).parent / "live").glob("[a-z]*.py"))
    parser.add_argument("--toolkit", choices=toolkits, required=True)
    parser.add_argument("--only", default="", help="sources whose name contains this")
    arguments = parser.parse_args(argv)
    toolkit = importlib.import_module(f"live.{arguments.toolkit}")
    torch.set_num_threads(1)
    print("| source | family | loaded as | hidden states | logits | allowed | verdict |\n|---|---|---|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, source) in enumerate(sources(Path(folder))):
            work = Path(folder) / f"{number}"
            work.mkdir()
            if arguments.only in name and (row := check(toolkit, source, work)) is not None:
                failed |= not row[-1].startswith(("equal", "within", "refused"))
                print("|", " | ".join((name, *row)), "|", flush=True)
    return int(failed)


def sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every checkpoint; golden cases are written into the folder."""
    data = ROOT / "tests" / "data"
    files = [path for pattern in ("*.pt", "s3prl/*.ckpt", "wav2vec_u/*.pt") for path in data.glob(pattern)]
    for path in sorted([*files, *(config.parent for config in data.glob("hf/*/config.json"))]):
        yield str(path.relative_to(data)), path
    for name in case_names():
        if name.endswith("_lively"):  # the weights that show what is wired wrongly
            yield name, Case.read(name).checkpoint(folder)


def check(toolkit: Any, source: Path, work: Path) -> tuple[str, ...] | None:
    """A row of the table after its name; None for a family that the toolkit does not have."""
    with open_conversion(source) as conversion:
        config: Any = conversion.config
    if not any(d.target == toolkit.TARGET and d.holds(config) for d in dialects().values()):
        return None
    written = work / "written"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = convert.main([str(source), "-o", str(written), "--to", toolkit.TARGET])
    if status != 0:
        return (
            config.family,
            "-",
            "-",
            "-",
            "-",
            "refused: " + said.getvalue().strip().rpartition(f" as {toolkit.TARGET}: ")[2],
        )
    model: Any = zoo.load(source, heads=True)
    # What is added to the variance of a waveform is the toolkit's, whatever the checkpoint's own is.
    if hasattr(config, "normalize_eps"):
        eps = zoo.load(written).config.normalize_eps
        model.config = dataclasses.replace(model.config, normalize_eps=eps)
    row = "tiny" if model.num_layers < 12 else "12 layers" if model.num_layers == 12 else "24 layers"
    (work / "loader").mkdir()
    try:
        run = toolkit.load(written, work / "loader")
    except AssertionError as error:
        return (config.family, "-", "-", "-", row, f"loader: {error}")
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {"states": [], "logits": []}
    with torch.no_grad():
        for given in inputs(model):
            out = model(given[None])
            states = list(run(given))
            if len(states) != len(out.hidden_states):
                return (config.family, kind(run), "-", "-", row, f"{len(states)} states")
            pairs["states"] += list(zip(states, out.hidden_states))
            if out.logits is not None and hasattr(run, "logits"):
                pairs["logits"].append((run.logits(given), out.logits))
    found = {what: [difference(got, want, row) for got, want in two] for what, two in pairs.items()}
    largest = [f"{max(d for d, _ in values):.1e}" if values else "-" for values in found.values()]
    equal = all(within for values in found.values() for _, within in values)
    if equal:
        verdict = "equal"
    else:  # a model of random weights may magnify float32's rounding more than the table allows
        noise, worst = rounding(model), max(d for values in found.values() for d, _ in values)
        verdict = f"within float32's {noise:.0e}" if worst <= noise else "differs"
    return (config.family, kind(run), *largest, row, verdict)


@torch.no_grad()
def rounding(model: Model) -> float:
    """By how much the zoo's own hidden states in float32 differ from those in float64."""
    exact = copy.deepcopy(model).double()
    pairs = [pair for given in inputs(model) for pair in zip(model(given[None])[0], exact(given[None].double())[0])]
    return max(float((a - b).abs().max()) for a, b in pairs)


def kind(run: object) -> str:
    return str(getattr(run, "kind", "-"))


def inputs(model: Model) -> Iterator[Tensor]:
    """Real speech, or features for a model that takes those."""
    config: Any = model.config
    if model.takes == "features":
        yield torch.randn(50, config.input_dim, generator=torch.Generator().manual_seed(0))
        return
    for name in SPEECH:
        samples, rate = soundfile.read(ROOT / "examples" / "audio" / name, dtype="float32")
        assert rate == model.sample_rate
        yield torch.from_numpy(samples[: SECONDS * rate])


def difference(got: Tensor, want: Tensor, row: str) -> tuple[float, bool]:
    """Largest difference, and whether it is within the golden table's tolerance."""
    found, wanted = (t.detach().double().reshape(-1, t.shape[-1]).numpy() for t in (got, want))
    if found.shape != wanted.shape:
        return float("inf"), False
    return float(abs(found - wanted).max()), bool(TOLERANCES[row].excess(found, wanted) <= 1)


if __name__ == "__main__":
    sys.exit(main())
