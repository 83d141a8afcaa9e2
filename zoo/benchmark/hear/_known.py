"""The twenty folders of HEAR 2021 as data; what a folder on disk says goes before."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.benchmark._task import Layout
from zoo.benchmark.hear._folder import TRAIN_VALID_TEST, Folder

SCENE = ("top1_acc", "mAP", "d_prime", "aucroc")
RANKED = ("mAP", "d_prime", "aucroc", "top1_acc")
PITCH = ("pitch_acc", "chroma_acc")


@dataclass(frozen=True)
class Known:
    """A folder of HEAR 2021.

    Attributes:
        title: for people.
        folder: what its metadata say; without labels, which are in the archive.
        layout: what the archive holds.
    """

    title: str
    folder: Folder
    layout: Layout


def unread(name: str) -> Folder:
    """A folder of which no more than the name is known."""
    if name in FOLDERS:
        return FOLDERS[name].folder
    return Folder(
        name=name,
        task_name=name,
        event=False,
        multilabel=False,
        split_mode=TRAIN_VALID_TEST,
        splits=("train", "valid", "test"),
        clip_s=None,
        metrics=("top1_acc",),
    )


def _known(
    name: str,
    title: str,
    clips: tuple[int, ...],
    clip_s: float | None,
    metrics: tuple[str, ...] = SCENE,
    mode: str = "",
    event: bool = False,
    multilabel: bool = False,
) -> Known:
    splits = tuple(f"fold{i:02}" for i in range(len(clips))) if mode else ("train", "valid", "test")
    folder = Folder(
        name=name,
        task_name=name.partition("-")[0],
        event=event,
        multilabel=multilabel or event,
        split_mode=mode or TRAIN_VALID_TEST,
        splits=splits,
        clip_s=clip_s,
        metrics=metrics,
    )
    layout = Layout(
        folder=name,
        files={"task_metadata.json": 1, "labelvocabulary.csv": 1, **{f"{split}.json": 1 for split in splits}},
        items=dict(zip(splits, clips)),
        source=f"hear2021-{name}-48000.tar.gz of https://doi.org/10.5281/zenodo.5885750, unpacked",
        licence="that of the corpus it was made of, as the archive's page says",
    )
    return Known(title, folder, layout)


NEW, GIVEN = "new_split_kfold", "presplit_kfold"

FOLDERS = {
    known.folder.name: known
    for known in (
        _known(
            "dcase2016_task2-hear2021-full",
            "DCASE 2016 task 2",
            (44, 14, 14),
            120.0,
            ("event_onset_200ms_fms", "segment_1s_er"),
            event=True,
        ),
        _known("nsynth_pitch-v2.2.3-5h", "NSynth pitch, 5 h", (4_000, 500, 500), 4.0, PITCH),
        _known("nsynth_pitch-v2.2.3-50h", "NSynth pitch, 50 h", (40_000, 5_000, 4_060), 4.0, PITCH),
    )
}
