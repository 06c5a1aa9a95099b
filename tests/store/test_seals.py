"""Files that hold their own checksum: what is changed is noticed, and what an earlier version wrote is read as before."""

from __future__ import annotations

import json
import random

import pandas as pd
import polars
import pyarrow.parquet
import pytest
import tensorstore
import zarr
from safetensors import safe_open

from conftest import rewrite_lines
from scotopic.protocol import ProblemsError
from scotopic.store import JsonLines, NucleusTables, RunFolder, VisitRecord
from scotopic.store.seals import BLANK, is_intact, read_json, sealed, sealed_json

VISITS = [VisitRecord(well="B2", site=site, t=0, attempt=1, frame_dose_ms={"2%": 0.08}) for site in range(3)]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_each_byte_of_a_sealed_file_counts():
    data = sealed_json({"a": 1, "b": [1.5, "xxh3"]}).encode()
    assert is_intact(data)
    prefix = range(
        data.index(b"xxh3:"), data.index(b"xxh3:") + 5
    )  # without it the file has no seal, and the same content
    assert [place for place in range(len(data)) if is_intact(flipped(data, place))] == list(prefix)
    assert is_intact(b'{"a": 1}'), "of an earlier version"
    with pytest.raises(ValueError, match="not found"):
        sealed(b"no place for it")


def test_a_sealed_json_file_is_read_without_its_seal_and_refused_in_a_line_when_damaged(tmp_path):
    path = tmp_path / "status" / "train.json"
    path.parent.mkdir()
    path.write_text(sealed_json({"state": "completed", "step": 1200}), encoding="utf-8")
    assert read_json(path) == {"state": "completed", "step": 1200}
    for damaged in (path.read_text().replace("1200", "1201"), "{", "[]", "\x00"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(
            ProblemsError, match=r"train\.json: is damaged: what became of this stage of the run"
        ) as told:
            read_json(path)
        assert "\n" not in str(told.value)


def test_a_changed_dose_in_a_line_is_noticed(tmp_path):
    lines = JsonLines(tmp_path / "visits.jsonl", VisitRecord)
    lines.append(VISITS)
    assert lines.read() == VISITS
    text = lines._path.read_text(encoding="utf-8")
    lines._path.write_text(text.replace("0.08", "0.09", 1), encoding="utf-8")
    with pytest.raises(
        ProblemsError, match=r"visits\.jsonl:1: damaged line.* the light dose of the sample cannot be trusted"
    ):
        lines.read()
    assert lines.tail(3) == VISITS[1:]


def test_any_flip_in_lines_is_noticed_or_changes_nothing(tmp_path):
    lines = JsonLines(tmp_path / "visits.jsonl", VisitRecord)
    lines.append(VISITS)
    data = lines._path.read_bytes()
    unnoticed = []
    for place in range(len(data)):
        lines._path.write_bytes(data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :])
        try:
            assert lines.read() == VISITS
            unnoticed.append(place)
        except ProblemsError:
            pass
    assert unnoticed == [len(data) - 1], "the end of the last line: the line itself is whole"


def test_a_last_line_without_its_end_is_kept_and_gets_it_back(tmp_path):
    """It was cut off as torn, and a finished site was exposed again."""
    lines = JsonLines(tmp_path / "visits.jsonl", VisitRecord)
    lines.append(VISITS)
    data = lines._path.read_bytes()
    for end in (b"", b"\0", b"K"):
        lines._path.write_bytes(data[:-1] + end)
        assert lines.read() == VISITS
        assert lines.cut_torn_line() == len(end)
        assert lines._path.read_bytes() == data
    lines._path.write_bytes(data[:-2])  # torn
    assert lines.read() == VISITS[:2]
    assert lines.cut_torn_line() > 0
    lines.append(VISITS[2:])
    assert lines._path.read_bytes() == data


def test_lines_of_an_earlier_version_are_read_and_gone_on_with(tmp_path):
    lines = JsonLines(tmp_path / "visits.jsonl", VisitRecord)
    rewrite_lines(lines._path, [each.model_dump(mode="json") for each in VISITS[:2]])
    assert lines.read() == VISITS[:2]
    lines.append(VISITS[2:])
    assert lines.read() == VISITS


def test_a_table_is_read_by_others_and_any_flip_in_it_is_noticed(tmp_path):
    tables = NucleusTables(tmp_path / "nuclei")
    table = pd.DataFrame({"level": ["2%", "100%"], "area_um2": [80.5, 90.25], "label": [1, 2], "clump": [True, False]})
    tables.write("reference", "B2", 0, 0, table)
    path = tables.folder("reference") / "B2_0.parquet"
    pd.testing.assert_frame_equal(tables.read("reference", "B2", 0, 0), table)
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert polars.read_parquet(path).columns == list(table)
    assert pyarrow.parquet.read_table(path).schema.metadata[b"seal"].startswith(b"xxh3:")
    data = path.read_bytes()
    for place in random.Random(1).sample(range(len(data)), 60):  # noqa: S311 - not for secrets
        path.write_bytes(flipped(data, place))
        if not is_intact(path.read_bytes()):
            with pytest.raises(ProblemsError, match=r"B2_0\.parquet: is damaged: the nuclei of this site"):
                tables.read("reference", "B2", 0, 0)
        else:
            assert data.index(b"xxh3:") <= place < data.index(b"xxh3:") + 5
    table.to_parquet(path)  # as an earlier version did
    pd.testing.assert_frame_equal(tables.read("reference", "B2", 0, 0), table)


def test_a_table_for_people_that_is_not_that_for_programs_is_damaged(tmp_path):
    tables = NucleusTables(tmp_path / "nuclei")
    tables.write_all("reference", pd.DataFrame({"label": [1, 2], "area_um2": [0.1 + 0.2, 1e-9]}))
    assert list(tables.damaged_csv()) == []
    path = tmp_path / "nuclei" / "reference.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(tables.damaged_csv()) == [], "as an earlier version wrote it on Windows"
    path.write_bytes(path.read_bytes().replace(b"0.3", b"0.4"))
    assert [problem.file for problem in tables.damaged_csv()] == [str(path)]


def test_masks_have_a_checksum_that_other_programs_look_at_too(segmented_plate):
    run = RunFolder(segmented_plate)
    field = run.plate(run.read_protocol(), run.read_profile()).field_path("B2", 0)
    assert {"name": "crc32c"} in json.loads((field / "labels/reference/0/zarr.json").read_text())["codecs"]
    ours = zarr.open_array(field / "labels/reference/0", mode="r")[0, 0]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(field / "labels/reference/0")}}
    assert (tensorstore.open(spec).result()[0, 0].read().result() == ours).all()
    assert "crc32c" not in (field / "0/zarr.json").read_text(), "the ledger has the checksums of images"


def test_a_damaged_checkpoint_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from scotopic.learning.checkpoint import read_checkpoint, write_checkpoint

    path = tmp_path / "models" / "checkpoint.safetensors"
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters())
    write_checkpoint(path, network, optimizer, {"step": 3})
    tensors, progress = read_checkpoint(path)
    assert progress == {"step": 3}
    assert BLANK not in safe_open(path, framework="pt").metadata()["seal"]
    path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) - 3))  # a weight
    with pytest.raises(ProblemsError, match="is damaged: where the training stands"):
        read_checkpoint(path)
    assert len(tensors) == 2
