"""Scans appended one by one: what a kill, a torn line or a damaged byte leaves."""

import json

import numpy as np
import pytest

from headwater.scans.journal import FILES, LINES, Writer, whole


def fill(place, count, start=0):
    """`count` scans; every second without a mask. Returns their arrays."""
    arrays = []
    with Writer(place) as writer:
        for i in range(start, start + count):
            image = np.full((1, 3 + i, 4), i, np.float16)
            label = None if i % 2 else np.full((3 + i, 4), i, np.uint8)
            record = writer.add({"i": i}, image, label)
            assert record["image_at"] == sum(4 * (3 + k) for k in range(i))
            assert record["label_at"] == (None if i % 2 else sum(4 * (3 + k) for k in range(0, i, 2)))
            arrays.append((image, label))
    return arrays


def test_whole_is_what_was_written(tmp_path):
    assert whole(tmp_path) == []
    arrays = fill(tmp_path, 5)
    assert [record["i"] for record in whole(tmp_path)] == [0, 1, 2, 3, 4]
    raw = np.fromfile(tmp_path / "images", np.float16)
    np.testing.assert_array_equal(raw, np.concatenate([image.ravel() for image, _ in arrays]))
    assert {oct((tmp_path / name).stat().st_mode)[-3:] for name in (*FILES, LINES)} == {"600"}


@pytest.mark.parametrize("name,left", [("images", 3), ("labels", 4), (LINES, 4)])
def test_a_torn_tail_is_cut_and_written_again(tmp_path, name, left):
    fill(tmp_path, 5)
    data = {kind: (tmp_path / kind).read_bytes() for kind in (*FILES, LINES)}
    cut = {"images": 2 * 4 * (3 + 4 + 5) + 40, "labels": len(data["labels"]) - 1, LINES: len(data[LINES]) - 1}[name]
    (tmp_path / name).write_bytes(data[name][:cut])
    assert [record["i"] for record in whole(tmp_path)] == list(range(left))
    fill(tmp_path, 5 - left, start=left)
    assert {kind: (tmp_path / kind).read_bytes() for kind in (*FILES, LINES)} == data


def test_bytes_without_their_line_are_cut(tmp_path):
    fill(tmp_path, 3)
    for name in FILES:
        with open(tmp_path / name, "ab") as file:
            file.write(b"a scan that was being written")
    assert len(whole(tmp_path)) == 3
    assert (tmp_path / "images").stat().st_size == 2 * 4 * (3 + 4 + 5)


@pytest.mark.parametrize("at", range(6))
def test_a_changed_byte_is_noticed(tmp_path, at):
    fill(tmp_path, 4)
    where = tmp_path / ("images", "labels", LINES)[at % 3]
    data = bytearray(where.read_bytes())
    place = (len(data) // 3, 2 * len(data) // 3)[at // 3]
    data[place] ^= 0x15
    where.write_bytes(bytes(data))
    records = whole(tmp_path)
    assert len(records) < 4 and [record["i"] for record in records] == list(range(len(records)))
    assert len((tmp_path / LINES).read_bytes().splitlines()) == len(records)


def test_lines_that_are_no_records(tmp_path):
    fill(tmp_path, 2)
    for odd in (b"null\n", b"[]\n", b'{"bytes": 3}\n', b'{"bytes": [1]}\n', b"\xff\xfe\n", b'{"bytes": ["a", 1], "crc": 0}\n'):
        with open(tmp_path / LINES, "ab") as file:
            file.write(odd)
        assert len(whole(tmp_path)) == 2, odd
    assert all(json.loads(line) for line in (tmp_path / LINES).read_bytes().splitlines())
    (tmp_path / "labels").unlink()
    assert whole(tmp_path) == []
