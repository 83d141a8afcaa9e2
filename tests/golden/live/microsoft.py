"""Microsoft's WavLM.py, in the folder that the environment variable ZOO_LIVE_MICROSOFT names."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import make_microsoft

from tests.golden.live import wavlm_class

FOLDER = "ZOO_LIVE_MICROSOFT"
if FOLDER not in os.environ:
    raise ImportError(f"no folder in {FOLDER}")
MODULE = make_microsoft.import_source(Path(os.environ[FOLDER]))
TWINS = dict.fromkeys(("wavlm", "unispeech_sat"), partial(wavlm_class.agree, MODULE))
