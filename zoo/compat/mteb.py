"""MTEB's encoder interface for any model of the zoo, so that MAEB and its other audio tasks take it as it is.

    import mteb
    from zoo.compat.mteb import Encoder

    mteb.evaluate(Encoder("wavlm_base", layer="all", combine="mean"), mteb.get_benchmark("MAEB(v1, audio-only)"))

The protocol is that of mteb 2.26.24, `mteb/models/models_protocols.py` (Apache-2.0), read for facts. It is met without
a base class, so mteb is imported only where it asks for its own description of a model.

Shapes: N clips, S samples, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo._audio import check_rate, resample
from zoo._store import model_digest
from zoo.benchmark import hear_api
from zoo.errors import InputError, shown

REVISION_DIGITS = 12


class Encoder:
    """One embedding a clip: the mean of its frames, whatever else is in its batch.

    Args:
        model_name: what `zoo.load` takes.
        revision: of a repository of Hugging Face, as in "hf:org/repo@revision"; other names have none.
        device: where to run; None: a CUDA device where there is one, else the CPU.
        options: of `zoo.benchmark.hear_api.load_model`: `layer`, `combine`, `weights`, `padding`, `chunk_s`, `pooling`.

    Attributes:
        model: what gives the embeddings.

    Raises:
        ZooError: for an option that is not known or cannot be, and for what `zoo.load` refuses.
    """

    def __init__(
        self, model_name: str, revision: str | None = None, *, device: str | None = None, **options: Any
    ) -> None:
        self.model_name = str(model_name)
        if revision is not None:
            if not self.model_name.startswith("hf:") or "@" in self.model_name:
                raise InputError(
                    f"revision={shown(revision)} was asked for of {self.model_name}; names like hf:org/repo take one"
                )
            self.model_name += f"@{revision}"
        self.options = options
        self.model = hear_api.embedder(self.model_name, **options)
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        precision: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embeddings of the clips of a data loader, in its order.

        Args:
            inputs: batches with a list "audio"; each clip has an "array", (S,) or (channels, S) floating point, and its
                "sampling_rate" in Hz. Channels are averaged, and soxr brings a clip to the model's rate.
            task_metadata: of the task, whose name is said when it gives no audio.
            hf_split: not looked at, as speech models have no prompts.
            hf_subset: the same.
            prompt_type: the same.
            precision: "float32"; MTEB would write down any other, which this is not.
            kwargs: `batch_size`, `show_progress_bar` and what else MTEB may give; not looked at.

        Returns:
            (N, D) fp32.

        Raises:
            InputError: for inputs without audio, audio that is none, and another precision.
        """
        if precision not in (None, "float32"):
            raise InputError(f"precision={shown(precision)} was asked for; embeddings are float32")
        parts = []
        for batch in inputs:
            if "audio" not in batch:
                task = getattr(task_metadata, "name", "this task")
                raise InputError(
                    f"{task} gives {', '.join(batch)} and no audio, which is all that a speech model takes"
                )
            parts.append(self.model.pooled([self._clip(item) for item in batch["audio"]]).cpu())
        if not parts:
            raise InputError("the data loader gives no batch; there is nothing to encode")
        return torch.cat(parts).numpy()

    def _clip(self, item: Any) -> Tensor:
        """(S,) of a mapping, or of what `datasets` decodes audio to, which has the same keys."""
        array, rate = np.asarray(item["array"]), item["sampling_rate"]
        check_rate(rate, "a clip's sampling_rate")
        if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind != "f":
            raise InputError(
                f"a clip is an array of {array.dtype} {array.shape}; give floating point, (samples,) or (channels, "
                "samples), none empty"
            )
        wave = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return resample(wave if array.ndim == 1 else wave.mean(0), rate, self.model.sample_rate)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of every pair.

        Args:
            embeddings1: (N, D) or (D,), tensor or array.
            embeddings2: (M, D) or (D,), the same.

        Returns:
            (N, M) fp32.
        """
        return _normalised(embeddings1) @ _normalised(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of each embedding with its partner.

        Args:
            embeddings1: (N, D) or (D,), tensor or array.
            embeddings2: the same.

        Returns:
            (N,) fp32.
        """
        return (_normalised(embeddings1) * _normalised(embeddings2)).sum(1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """MTEB's `ModelMeta`, by which it files results: the weights' digest is the revision, options the experiment.

        Raises:
            InputError: where mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise InputError(f"MTEB's description of a model needs mteb ({error}); pip install mteb") from None
        own = Path(self.model_name)
        name = own.stem if own.exists() else self.model_name.partition("@")[0].removeprefix("hf:").rpartition("/")[2]
        return ModelMeta.create_empty(
            {
                "name": f"zoo/{name}",
                "revision": model_digest(self.model.model)[:REVISION_DIGITS],
                "modalities": ["audio"],
                "n_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "embed_dim": self.model.scene_embedding_size,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
                "experiment_kwargs": self.options or None,
            }
        )


def _normalised(embeddings: Any) -> Tensor:
    """(N, D) fp32 of length 1, of (N, D) or (D,)."""
    found = torch.as_tensor(embeddings).float()
    return F.normalize(found.reshape(-1, found.shape[-1]), dim=1)
