"""What ESPnet's front end does with s3prl, call by call; run in a process of its own, in which s3prl is not installed.

Written after espnet/espnet `espnet2/asr/frontend/s3prl.py` (04325641, Apache-2.0), which was read for the calls and
their order. Arguments: the options as JSON, a file for the results.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compat.s3prl import install

install()
install()  # a second time changes nothing


class FrontEnd(nn.Module):
    """The front end of a recogniser."""

    def __init__(self, conf: dict[str, Any], download_dir: str, multilayer_feature: bool, layer: int) -> None:
        import s3prl
        from s3prl.nn import Featurizer, S3PRLUpstream

        super().__init__()
        s3prl.util.download.set_dir(download_dir)
        assert conf["upstream"] in S3PRLUpstream.available_names()
        upstream = S3PRLUpstream(
            conf["upstream"],
            path_or_url=conf.get("path_or_url"),
            normalize=conf.get("normalize", False),
            extra_conf=conf.get("extra_conf"),
        )
        if getattr(upstream.upstream, "model", None) and hasattr(upstream.upstream.model, "feature_grad_mult"):
            upstream.upstream.model.feature_grad_mult = 1.0
        upstream.eval()
        self.upstream = upstream
        self.featurizer = Featurizer(upstream, layer_selections=None if layer == -1 else [layer])
        self.multilayer_feature, self.layer = multilayer_feature, layer
        self.pretrained = copy.deepcopy(upstream.state_dict())
        self.hop_length = self.featurizer.downsample_rate

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        feats, feats_lengths = self.upstream(speech, lengths)
        if self.layer != -1:
            return feats[self.layer], feats_lengths[self.layer]
        if self.multilayer_feature:
            return self.featurizer(feats, feats_lengths)
        return self.featurizer(feats[-1:], feats_lengths[-1:])


def replay(options: dict[str, Any]) -> dict[str, Any]:
    """Every use of the front end, and what came of it."""
    conf, folder = options["conf"], options["download_dir"]
    speech, lengths = torch.tensor(options["speech"]), torch.tensor(options["lengths"])
    found: dict[str, Any] = {}
    for name, multilayer, layer in (("last", False, -1), ("summed", True, -1), ("one", False, 1), ("third", False, -3)):
        torch.manual_seed(0)
        front_end = FrontEnd(conf, folder, multilayer, layer)
        if multilayer:
            front_end.featurizer.weights.data = 0.5 * torch.arange(float(len(front_end.featurizer.weights)))
        feats, feats_lengths = front_end(speech, lengths)
        found[name], found[f"{name}_lengths"] = feats.detach(), feats_lengths
        found["size"] = [front_end.featurizer.output_size, front_end.hop_length]

        saved = {f"frontend.{key}": value.clone() for key, value in front_end.state_dict().items()}
        other = nn.ModuleDict({"frontend": FrontEnd(conf, folder, multilayer, layer)})
        for parameter in other.parameters():
            parameter.data.add_(0.1)
        assert not torch.equal(other.frontend(speech, lengths)[0], feats)
        other.load_state_dict(saved)
        assert torch.equal(other.frontend(speech, lengths)[0], feats)
        for parameter in other.frontend.upstream.parameters():
            parameter.data.add_(0.1)
        other.frontend.upstream.load_state_dict(other.frontend.pretrained)  # reload_pretrained_parameters
        assert torch.equal(other.frontend(speech, lengths)[0], feats)

        for key, parameter in front_end.named_parameters():  # freeze_param: [frontend.upstream]
            if key.startswith("upstream."):
                parameter.requires_grad = False
        trained = {key for key, parameter in front_end.named_parameters() if parameter.requires_grad}
        assert trained == {"featurizer.weights"}
        if multilayer:
            front_end(speech, lengths)[0].square().mean().backward()
            found["gradient"] = front_end.featurizer.weights.grad
    return found


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        arguments = json.load(file)
    torch.save(replay(arguments), sys.argv[2])
