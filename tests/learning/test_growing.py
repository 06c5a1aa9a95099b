"""A plate that grows while the network learns; the end of a training; curves."""

from __future__ import annotations

import shutil

import pytest

from scotopic.learning import training
from scotopic.learning.training import Progress
from scotopic.protocol import TrainingSettings
from scotopic.store import RunFolder
from scotopic.workflow import learning, train


class _NoMasksToMake:
    """All masks of the plate of this test are there: a process that makes some would write into the files that it rewrites."""

    has_ended = True

    def __init__(self, *_: object) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self) -> None: ...


@pytest.mark.e2e
def test_sites_that_come_while_it_learns_are_learned_from(segmented_plate, tmp_path, monkeypatch):
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    files = [run.path / "frames.jsonl", run.path / "light.jsonl", run.path / "nuclei" / "reference" / "sites.jsonl"]
    whole = {path: path.read_text(encoding="utf-8").splitlines(keepends=True) for path in files}
    stages = iter([({"B2"}, True), ({"B2", "B4"}, True), ({"B2", "B3", "B4", "B5"}, False)])

    def acquired_so_far(self):
        """Let the next wells come, as an acquisition would, and say whether it goes on."""
        wells, goes_on = next(stages)
        for path, lines in whole.items():
            path.write_text(
                "".join(line for line in lines if any(f'"well":"{w}"' in line for w in wells)), encoding="utf-8"
            )
        return goes_on

    monkeypatch.setattr(RunFolder, "is_locked", acquired_so_far)
    monkeypatch.setattr(learning, "Command", _NoMasksToMake)
    monkeypatch.setattr(learning, "give_way", lambda: None)
    monkeypatch.setattr(training, "_CHECKPOINT_S", 0)
    monkeypatch.setattr(training, "_LOOK_S", 0)
    held = []
    monkeypatch.setattr(
        training,
        "_learning_rate",
        lambda step, done, real=training._learning_rate: held.append(done) or real(step, done),
    )
    said = []
    assert train(run.path, said.append, steps=2, follow=True, tensorboard=True)
    assert "training on 2 sites of 1 wells, checking on 2 of B4" in said
    assert "no more sites come: 4 to learn from, 2 to check on" in said
    assert max(held[: held.index(0.5) + 1]) == 0.5
    assert run.read_status("train")["state"] == "completed"
    offered = [line for line in said if line.startswith("model ")]
    assert len(offered) == 1 + run.read_status("train")["offers"]
    assert list((run.path / "models" / "tensorboard").iterdir())


def test_a_growing_plate_uses_no_more_than_the_first_part_of_the_budget():
    settings = TrainingSettings(minutes=10)
    assert Progress(spent=300).share_done(settings) == 0.5
    assert Progress(spent=600).share_done(settings) == 1


def test_a_plate_that_grows_again_gives_nothing_back_and_takes_no_more():
    settings = TrainingSettings(minutes=10)
    progress = Progress(spent=570)
    progress.spend(10, settings, growing=True)
    assert progress.spent == 570, "killed at its end and begun beside an acquisition again: it does not start over"
    progress.spend(10, settings, growing=False)
    assert progress.spent == 580
    early = Progress(spent=395)
    early.spend(10, settings, growing=True)
    assert early.spent == 400


def test_what_was_checked_while_the_plate_grew_ends_no_training():
    settings = TrainingSettings(minutes=100)
    flat = [{"f1": {"100%": 0.6}} for _ in range(12)]
    assert training._has_levelled_off(Progress(spent=1000, checks=flat), settings)
    assert not training._has_levelled_off(Progress(spent=1000, checks=flat, checks_before=12), settings)


def test_a_training_that_has_levelled_off_ends_with_a_falling_learning_rate():
    settings = TrainingSettings(minutes=100)
    rising = [{"f1": {"100%": 0.5 + 0.01 * n}} for n in range(12)]
    flat = [{"f1": {"100%": 0.6}} for _ in range(10)]
    assert not training._has_levelled_off(Progress(spent=1000, checks=rising), settings)
    assert not training._has_levelled_off(Progress(spent=1000, checks=flat), settings), "nothing before to compare with"
    progress = Progress(spent=1000, checks=[*rising, *flat])
    assert training._has_levelled_off(progress, settings)
    progress.levelled_off = 1000
    assert progress.share_done(settings) == 0.8
    progress.spent = 1125
    assert progress.share_done(settings) == pytest.approx(0.9)
    assert not training._has_levelled_off(progress, settings), "it is at its end already"
    progress.spent = 1250
    assert progress.share_done(settings) == pytest.approx(1)


def test_a_checkpoint_goes_on_with_sites_added_but_not_with_sites_lost(segmented_plate):
    from scotopic.learning.pairs import Pairs, find_pairs

    pairs, settings = find_pairs(RunFolder(segmented_plate)), TrainingSettings(steps=3)
    saved = {"pairs": training._named(pairs), "settings": settings.model_dump(mode="json")}
    fewer = Pairs(pairs.runs, dict(list(pairs.training.items())[:-1]), pairs.validation, {})
    assert training._goes_on_with(saved, pairs, settings)
    assert not training._goes_on_with(saved, fewer, settings)
    assert not training._goes_on_with(saved, pairs, TrainingSettings(steps=4))
    assert training._goes_on_with({**saved, "pairs": training._named(fewer)}, pairs, settings)
