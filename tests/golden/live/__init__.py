"""Random tiny models of every family, held against the toolkit they come from, in the toolkit's own environment."""

import sys
from pathlib import Path

# The makers, which build and run each toolkit's models, import each other as scripts do.
sys.path.append(str(Path(__file__).resolve().parents[1]))
