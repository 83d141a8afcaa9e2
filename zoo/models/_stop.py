"""What was trained for STOP, spoken semantic parsing, on two families' base models; https://arxiv.org/abs/2207.10643.

Facts: fairseq `examples/audio_nlp/nlu/README.md` (3d262bb2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

CTC = {
    "none": "nothing else",
    "ls": "CTC on LibriSpeech",
    "stop": "CTC on STOP",
    "ls-stop": "CTC on LibriSpeech and STOP",
}
TASKS = (
    ("ctc", "ctc-asr", "", ("ls", "stop", "ls-stop"), ""),
    (
        "nlu",
        "end-to-end-nlu",
        "semantic parsing on STOP, after ",
        ("none", "ls", "stop"),
        "the encoder alone, without the decoder that stands on it",
    ),
)


def stop_models(encoder: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name after that of the family's base model, data, source and the rest of each preset.

    Args:
        encoder: "wav2vec" or "hubert".
    """
    for task, file, what, corpora, notes in TASKS:
        for corpus in corpora:
            more = {"paper": "https://arxiv.org/abs/2207.10643", "confirmed": False, "notes": notes}
            yield (
                f"stop_{task}_{corpus.replace('-', '_')}",
                what + CTC[corpus],
                f"STOP:{file}-{encoder}-{corpus}.pt",
                more,
            )
