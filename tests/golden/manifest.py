"""The hash of every recorded file, so that none can change, vanish or appear unnoticed.

    python tests/golden/manifest.py    # writes manifest.json, after data were made again

The standard library only.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "tests/golden/manifest.json"
# All recorded values, those of the demo and of the small checkpoints too.
PATTERNS = (
    "tests/golden/**/*.npz",
    "tests/golden/**/*.json",
    "tests/data/**/*expected*",
    "tests/data/**/recorded*",
    "examples/expected.npz",
)


def hashes(root: Path = ROOT) -> dict[str, str]:
    """The SHA-256 of every recorded file below a root, by its path from there."""
    found = {path.relative_to(root).as_posix(): path for pattern in PATTERNS for path in root.glob(pattern)}
    found.pop(MANIFEST, None)
    return {name: hashlib.sha256(found[name].read_bytes()).hexdigest() for name in sorted(found)}


def differences(root: Path = ROOT) -> list[str]:
    """In what the files below a root are not those of its manifest."""
    listed: dict[str, str] = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    found = hashes(root)
    return [
        *(f"{name} is missing" for name in sorted(listed.keys() - found.keys())),
        *(f"{name} is not listed" for name in sorted(found.keys() - listed.keys())),
        *(f"{name} has changed" for name in sorted(listed.keys() & found.keys()) if listed[name] != found[name]),
    ]


def main() -> int:
    """Write the manifest."""
    text = json.dumps(hashes(), indent=1) + "\n"
    path = ROOT / MANIFEST
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    print(f"{MANIFEST}: {text.count(':')} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
