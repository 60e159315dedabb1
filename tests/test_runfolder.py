"""Files of a run are whole or absent, and what is torn is left out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from headwater import runfolder
from headwater.errors import InputError


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = runfolder.write_text(tmp_path / "deep" / "a.txt", "old")

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        runfolder.write_whole(path, fail)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = runfolder.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError, match="cannot write"):
        runfolder.write_json(path, {"a": object()})
    assert runfolder.read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def test_a_reader_never_sees_half(tmp_path):
    path = runfolder.write_text(tmp_path / "a.txt", "old")
    seen = []

    def write(beside: Path) -> None:
        beside.write_text("new, half")
        seen.append(path.read_text())
        beside.write_text("new, whole")

    runfolder.write_whole(path, write)
    assert seen == ["old"] and path.read_text() == "new, whole"


def test_what_is_not_finite_becomes_null(tmp_path):
    value = {"a": float("nan"), "b": [np.float32("inf"), 1.5], "c": np.array([[1.0, np.nan]]), "d": -np.inf, 5: np.int64(3)}
    path = runfolder.write_json(tmp_path / "a.json", value)
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, 1.5], "c": [[1.0, None]], "d": None, "5": 3}


def test_plain_keeps_what_json_knows():
    value = {"truth": True, "none": None, "text": "mm³", "path": Path("a") / "b", "pair": (1, 2), "boolean": np.bool_(True)}
    assert runfolder.plain(value) == {"truth": True, "none": None, "text": "mm³", "path": "a/b", "pair": [1, 2], "boolean": True}
    assert runfolder.plain(value)["truth"] is True


def test_events_come_back_in_order_without_a_torn_line(tmp_path):
    assert runfolder.read_events(tmp_path) == []
    events = [{"event": "step", "step": i, "loss": i / 3} for i in range(4)]
    for event in events:
        runfolder.append_event(tmp_path, event)
    whole = (tmp_path / "events.jsonl").read_text()
    for cut in range(1, len(whole.splitlines()[-1])):
        (tmp_path / "events.jsonl").write_text(whole[: -cut - 1])
        assert runfolder.read_events(tmp_path) == events[:3]
    runfolder.append_event(tmp_path, {"loss": float("nan")})


def test_an_event_after_a_torn_line_is_not_lost(tmp_path):
    runfolder.append_event(tmp_path, {"step": 1})
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"step": 2, "lo')  # killed while writing
    runfolder.append_event(tmp_path, {"step": 2})
    assert runfolder.read_events(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_line_torn_within_a_letter_is_left_out(tmp_path):
    runfolder.append_event(tmp_path, {"step": 1})
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write('{"text": "µ'.encode()[:-1])
    assert runfolder.read_events(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/it"])
def test_no_folder_where_a_file_is(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another place to write to"):
        runfolder.private_folder(tmp_path / place)
    with pytest.raises(InputError, match="give another place to write to"):
        runfolder.write_json(tmp_path / place / "a.json", 1)


def test_a_place_that_cannot_be_written_is_also_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        runfolder.write_json(tmp_path / "file" / "a.json", 1)  # a cache that cannot be kept is gone without
