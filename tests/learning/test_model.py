"""The model file: what it is called by, what it remembers, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from conftest import DATA
from scotopic.learning.model import LearnedFrom, Model, PlateIdentity, model_hash
from scotopic.protocol import ProblemsError

MODEL = DATA / "model.safetensors"
HASH = model_hash(MODEL)


def changed(tmp_path, name="changed", *, weights=lambda _: None, card=lambda _: None):
    """A copy of the tests' model with other weights or another card."""
    data = MODEL.read_bytes()
    tensors, text = load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["scotopic"]
    card_values = json.loads(text)
    weights(tensors)
    card(card_values)
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(save(tensors, {"scotopic": json.dumps(card_values)}))
    return path


def test_a_model_is_called_by_its_content_whatever_its_file_is_called(tmp_path):
    """A file called reference.safetensors has overwritten the reference tables: its name had become the source's."""
    path = shutil.copyfile(MODEL, tmp_path / "reference.safetensors")
    assert Model.load(path).hash == HASH
    assert model_hash(path) == HASH


def test_weights_with_flipped_bits_are_refused_under_their_hash(tmp_path):
    data = bytearray(MODEL.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for _ in range(40):
        flipped = bytearray(data)
        flipped[int(rng.integers(header, len(data)))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{HASH}.safetensors"
        path.write_bytes(flipped)
        with pytest.raises(ProblemsError, match=r"is damaged: .*(its content has the hash|no numbers)"):
            Model.load(path)
    path.write_bytes(data)
    assert Model.load(path).hash == HASH


def test_weights_that_are_no_numbers_are_refused_under_any_name(tmp_path):
    def spoil(tensors):
        next(iter(tensors.values())).view(-1)[0] = torch.nan

    with pytest.raises(ProblemsError, match="weights that are no numbers in "):
        Model.load(changed(tmp_path, weights=spoil))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("cut_offs", [], "cut_offs: "),
        ("cut_offs", None, "cut_offs: "),
        ("cut_offs", [{"dose": 1, "probability": float("nan"), "foreground": 0.5}], "cut_offs.0.probability: "),
        ("peak_e", float("nan"), "peak_e: "),
        ("format", "two", "has the format 'two'"),
    ],
)
def test_a_card_without_thresholds_or_with_odd_ones_is_refused_in_one_line(tmp_path, key, value, told):
    path = changed(tmp_path, card=lambda card: card.update({key: value}))
    with pytest.raises(ProblemsError) as error:
        Model.load(path)
    (problem,) = error.value.problems
    assert told in problem.message
    assert "\n" not in problem.message


RUN = LearnedFrom(run="a", run_id="1", plate_id="P7", specimen="synthetic-1-x", wells=("B2", "B3"))


@pytest.mark.parametrize(
    ("plate", "relation"),
    [
        (PlateIdentity(run_id="1"), "same_plate"),
        (PlateIdentity(run_id="2", plate_id="P7"), "same_plate"),
        (PlateIdentity(run_id="2", plate_id="P8"), "other_plate"),
        (PlateIdentity(run_id="2", specimen="synthetic-1-x"), "same_plate"),
        (PlateIdentity(run_id="2", specimen="synthetic-1-y"), "other_plate"),
        (PlateIdentity(run_id="2"), "unknown"),
        (PlateIdentity(), "unknown"),
    ],
)
def test_whether_two_acquisitions_are_of_one_plate_is_never_guessed(plate, relation):
    assert RUN.relation(plate) == relation


def test_replayed_images_may_lie_in_other_wells_of_another_run():
    images = LearnedFrom(run="a", run_id="1", specimen="images-3-x", wells=("B2",))
    assert images.relation(PlateIdentity(run_id="2", specimen="images-3-x")) == "unknown"


def test_a_model_knows_the_wells_that_it_has_seen_also_one_of_an_earlier_version():
    card = Model.load(MODEL).card
    assert not card.learned, "it was made before models remembered runs"
    relation, wells = card.seen_wells(PlateIdentity(specimen=card.specimen))
    assert relation == "same_plate"
    assert set(wells) == {*card.training_wells, *card.validation_wells}
    assert card.seen_wells(PlateIdentity(specimen="synthetic-1-000000000000")) == ("other_plate", ())
    assert card.seen_wells(PlateIdentity(run_id="of a real microscope")) == ("unknown", ())
    two = card.model_copy(update={"learned": (RUN, LearnedFrom(run="b", run_id="2", wells=("C1",)))})
    assert two.seen_wells(PlateIdentity(run_id="2")) == ("same_plate", ("C1",))


def test_an_own_model_of_an_earlier_version_has_learned_from_its_run():
    card = Model.load(MODEL).card.model_copy(update={"specimen": "images-3-x"})
    plate = PlateIdentity(run_id="1", specimen="images-3-x")
    assert card.seen_wells(plate)[0] == "unknown"
    relation, wells = card.seen_wells(plate, is_own=True)
    assert relation == "same_plate"
    assert set(wells) == {*card.training_wells, *card.validation_wells}


def test_a_model_that_has_not_learned_is_not_for_live_use():
    card = Model.load(MODEL).card
    assert card.misfit(0.65, "DAPI", least_f1=0.85) == ""
    bad = card.model_copy(update={"f1": card.f1 | {"100%": 0.2}})
    assert (
        bad.misfit(0.65, "DAPI", least_f1=0.85) == "has not learned: its F1 is 0.20 at 100% (at least 0.85 is needed)"
    )
    assert bad.misfit(0.65, "DAPI") == "", "other images may be segmented with it"
