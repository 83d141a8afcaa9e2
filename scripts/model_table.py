"""The tables of models in README.md and docs/models.md, made from the registry.

    PYTHONPATH=. python scripts/model_table.py            # writes them
    PYTHONPATH=. python scripts/model_table.py --check    # exit status 1 where one is not what the registry says

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`. The README's has one row for neighbours in a family that
differ in a part of their name; docs/models.md has one row for each name.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from zoo._registry import families
from zoo.models._family import Family, Preset, Source
from zoo.models._unsupported import UNSUPPORTED

ROOT = Path(__file__).resolve().parent.parent
LABELS = {
    "fairseq": "fairseq",
    "microsoft": "Microsoft",
    "s3prl_converted": "s3prl",
    "s3prl_distiller": "s3prl",
    "s3prl": "s3prl",
    "huggingface": "Hugging Face",
    "torchaudio": "torchaudio",
}


def ours() -> list[Family]:
    """Families of this repository: other installed packages may add theirs."""
    return [family for family in families().values() if family.config.__module__.startswith("zoo.models.")]


def compact() -> Iterator[str]:
    yield from head("name", "aliases", "parameters", "data", "licence", "sources")
    for family in ours():
        yield row(f"**{family.name}**", *[""] * 5)
        for _, neighbours in itertools.groupby(family.presets, alike):
            presets = list(neighbours)
            where = [LABELS[s.dialect] for p in presets for s in p.sources if not s.dead]
            yield row(
                code([braces([p.name for p in presets])]),
                code(alias for p in presets for alias in p.aliases),
                millions(presets[0]),
                shared([p.data for p in presets]),
                presets[0].licence,
                ", ".join(dict.fromkeys(where)) or no_source(presets[0]),
            )


def every() -> Iterator[str]:
    yield from head("name", "aliases", "family", "parameters", "data", "licence", "paper", "sources", "notes")
    for family in ours():
        for p in family.presets:
            yield row(
                code([p.name]),
                code(p.aliases),
                family.name,
                millions(p),
                p.data,
                p.licence + (f" ({p.licence_notes})" if p.licence_notes else ""),
                f"[{p.paper.rpartition('/')[2]}]({p.paper})",
                ", ".join(map(link, p.sources)) or no_source(p),
                p.notes,
            )


def unsupported() -> Iterator[str]:
    yield from head("model", "names", "why not", "instead")
    for model in UNSUPPORTED:
        yield row(model.name, code(model.names), model.reason, model.instead)


TABLES: dict[tuple[str, str], Callable[[], Iterator[str]]] = {
    ("README.md", "models"): compact,
    ("docs/models.md", "models"): every,
    ("docs/models.md", "unsupported"): unsupported,
}


def head(*columns: str) -> tuple[str, str]:
    return row(*columns), "|" + "---|" * len(columns)


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def millions(preset: Preset) -> str:
    return f"{preset.parameters / 1e6:.1f} M" if preset.parameters else "0"


def link(source: Source) -> str:
    address = source.url.replace("hf:", "https://huggingface.co/", 1) if source.url.startswith("hf:") else source.url
    text = f"[{LABELS[source.dialect]}]({address})"
    return f"~~{text}~~" if source.dead else text


def no_source(preset: Preset) -> str:
    return "no link works any more" if preset.sources else "-"


def alike(preset: Preset) -> tuple[object, ...]:
    """What neighbours that share a row have in common."""
    fetchable = any(not s.dead for s in preset.sources)
    return preset.parameters, preset.licence, preset.paper, fetchable, preset.data.split()[0]


def beginning(parts: Sequence[Sequence[str]]) -> list[str]:
    """What lists begin with in common."""
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts))]


def braces(names: Sequence[str]) -> str:
    """Names that begin and end alike as one, from which a shell makes them again: a_b_c, a_d_c as a{_b,_d}_c."""
    parts = [re.split("(?=_)", name) for name in names]
    before = beginning(parts)
    rest = [part[len(before) :] for part in parts]
    after = beginning([part[::-1] for part in rest])[::-1]
    middle = ["".join(part[: len(part) - len(after)]) for part in rest]
    if len(names) == 1:
        return names[0]
    if all(text.startswith("_") for text in middle):
        before, middle = [*before, "_"], [text.removeprefix("_") for text in middle]
    return "".join([*before, "{" + ",".join(middle) + "}", *after])


def shared(texts: Sequence[str]) -> str:
    """Texts in a few words: all of two; the words that more of them begin with."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) <= 2:
        return "; ".join(distinct)
    return " ".join([*beginning([text.split() for text in distinct]), "..."])


def filled(text: str, name: str, lines: Iterable[str]) -> str:
    """`text` with what stands between the markers `name` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"it must have one <!-- {name} --> and one <!-- /{name} --> after it")
    return pattern.sub(lambda found: found[1] + "".join(line + "\n" for line in lines) + found[2], text)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args(argv)
    status = 0
    for (file, name), table in TABLES.items():
        path = root / file
        before = path.read_text(encoding="utf-8")
        after = filled(before, name, table())
        if after != before and arguments.check:
            print(
                f"{file}: table {name!r} is not what the registry says; run PYTHONPATH=. python scripts/model_table.py"
            )
            status = 1
        elif after != before:
            path.write_text(after, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
