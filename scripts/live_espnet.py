"""ESPnet's own front end on the zoo instead of s3prl, compared with what s3prl recorded.

Runs beside ESPnet, in an environment without s3prl, in which the zoo's requirements are installed too:

    pip install --no-deps espnet==202511 torch_complex typeguard humanfriendly torchaudio
    PYTHONPATH=. python scripts/live_espnet.py

For each checkpoint of tests/compat: the last layer, one layer and the sum of all; lengths; reloading the pre-trained
parameters; a round trip of the state dict. Prints a Markdown table; exit status 1 if anything differs by more than the
golden table allows. DistilHuBERT's tiny checkpoint, whose predictions are narrower than its layers, is left out: its
states cannot be summed, and s3prl asserts that they can.
"""

from __future__ import annotations

import sys
import tempfile

import torch

from tests.compat.test_s3prl import ARRAYS, FACTS, TESTS, batch, kept
from tests.golden.compare import Comparison
from zoo.compat.s3prl import install


def main() -> int:
    """Compare everything."""
    install()
    from espnet2.asr.frontend.s3prl import S3prlFrontend

    failed = False
    wavs, lengths = batch("padded")
    print("| case | upstream | states | verdict |\n|---|---|---|---|")
    for case, facts in FACTS["cases"].items():
        if len(set(facts["hidden_sizes"])) > 1:
            continue
        conf = {"upstream": facts["upstream"], "path_or_url": facts["checkpoint"] and str(TESTS / facts["checkpoint"])}
        comparison = Comparison()
        for multilayer, layer in ((False, -1), (True, -1), (False, 0)):
            with tempfile.TemporaryDirectory() as folder:
                model = S3prlFrontend("16k", conf, folder, multilayer, layer)
            model.reload_pretrained_parameters()
            model.load_state_dict(model.state_dict())
            with torch.no_grad():
                states, frames = model(wavs, lengths)
                every, _ = model.upstream(wavs, lengths)
            assert frames.tolist() == facts["frames"]["padded"][0]
            assert (model.output_size(), model.hop_length) == (facts["hidden_sizes"][0], facts["downsample_rates"][0])
            if multilayer:
                torch.testing.assert_close(states, torch.stack(every).mean(0))
            else:
                comparison.check("states", kept(states)[0], ARRAYS[f"{case}/padded"][layer])
        failed |= bool(comparison.failures)
        verdict = "; ".join(comparison.failures) or "equal"
        print(f"| {case} | {facts['upstream']} | {comparison.largest['states']:.1e} | {verdict} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
