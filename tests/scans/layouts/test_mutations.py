"""Lists with bytes changed, cut or put in: every one ends in a catalog or in one sentence, and no file outside is touched."""

import numpy as np
import pytest
from corpus import CASES

from headwater.errors import InputError
from headwater.scans.layouts import understand

LISTS = {
    "nnunet_regions_and_ignore": "dataset.json",
    "nnunet_that_lists_its_cases": "dataset.json",
    "decathlon": "dataset.json",
    "monai_datalist": "list.json",
    "nnssl": "pretrain_data.json",
    "table": "scans.csv",
    "bids": "participants.tsv",
}
PIECES = (b"null", b"[]", b"{}", b'"', b"../", b"/", b"\\", b"\0", b"\xff", b"1e999", b"-1", b",", b"\n", b"[[[[", b";")
PIECES += (b'"\\ud800"', b"9" * 400)


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes replaced, removed or put in, or the end cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, kind = int(rng.integers(0, len(changed) + 1)), int(rng.integers(0, 4))
        if kind == 0:
            changed[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            changed[at : at + int(rng.integers(1, 30))] = b""
        elif kind == 2:
            changed[at:at] = PIECES[int(rng.integers(0, len(PIECES)))]
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("name", LISTS)
def test_no_list_breaks_it(name, tmp_path):
    case = next(case for case in CASES if case.name == name)
    root = tmp_path / "given"
    root.mkdir()
    case.write(root)
    file = root / LISTS[name]
    data, rng = file.read_bytes(), np.random.default_rng(7)
    ends = {"read": 0, "told": 0}
    for i in range(120):
        file.write_bytes(_mutated(data, rng))
        try:
            found = understand(root if i % 2 else root / case.given)
            ends["read"] += 1
        except InputError as error:
            ends["told"] += 1
            assert "\n" not in str(error)
            continue
        for item in found.items:
            for source in (item.source, item.mask):
                assert source is None or all(path.resolve().is_relative_to(root.resolve()) for path in source.files)
        for text in (found.rule, *found.notes, *(str(fault) for fault in found.faults), *(item.name for item in found.items)):
            text.encode("utf-8")
    assert ends["read"] > 0, ends
