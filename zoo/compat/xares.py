"""X-ARES's encoder for any model of the zoo, in a file of one class that its runner and its checker take.

    # wavlm_encoder.py
    from zoo.compat import xares

    class WavlmBaseEncoder(xares.Encoder):
        options = {"name": "wavlm_base", "layer": "all", "combine": "mean"}

    python -m xares.run wavlm_encoder.py src/tasks/*.py

The runner wants one name that ends in "Encoder" in the file, and keeps what it computes under that of the class: each
model and each choice of layers needs a class name of its own. `zoo/compat/xares.py` itself is such a file, of
`hubert_base`.

Interface: xares 0.1.3, `xares/audio_encoder_checker.py`, `xares/run.py` and `xares/task.py` (Apache-2.0), read for
facts. xares itself is not imported.

Shapes: B batch, S samples, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.benchmark import hear_api


class Encoder(nn.Module):
    """Embeddings of frames, in eval mode and without gradients whatever the module is set to.

    Args:
        options: of `zoo.benchmark.hear_api.load_model`: `name`, `layer`, `combine`, `weights`, `padding`, `chunk_s`,
            `pooling`; they go before those of the class.

    Attributes:
        options: what a class of one's own is made with.
        sampling_rate: Hz.
        output_dim: D.
        hop_size_in_ms: from one frame to the next.

    Raises:
        ZooError: for an option that is not known or cannot be, and for what `zoo.load` refuses.
    """

    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = hear_api.embedder(**{**self.options, **options})
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.timestamp_embedding_size
        self.hop_size_in_ms: float = 1000 * self.model.model.hop_length / self.sampling_rate

    def forward(self, audio: Tensor) -> Tensor:
        """Embeddings of every frame; zeros at a clip's end are part of it, as X-ARES gives no lengths.

        Args:
            audio: (B, S) or (S,) floating point at `sampling_rate`.

        Returns:
            (B, T, D) fp32.

        Raises:
            InputError: for audio that is none.
        """
        frames: Tensor = self.model(audio[None] if audio.dim() == 1 else audio)[0]
        return frames
