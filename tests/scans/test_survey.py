"""Everything is looked at once; what did not change is not read again; memory is shared out."""

import os
import threading
import time

import numpy as np
import pytest

from headwater.scans import identifiers, survey
from headwater.scans.scan import Source


@pytest.fixture
def some(tmp_path, save, monkeypatch):
    """Six scans, the second damaged, and a folder to remember in."""
    monkeypatch.setattr(survey, "cache_folder", lambda: tmp_path / "kept")
    paths = [
        save(tmp_path / f"scans/{i}.nii.gz", np.random.default_rng(i).normal(size=(6, 7, 8)).astype(np.float32)) for i in range(6)
    ]
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    return [(Source.of(path), None) for path in paths]


def plain(seen):
    return [one.plain() for one in seen]


def test_a_second_look_reads_nothing_and_says_the_same(some, tmp_path, monkeypatch):
    first = survey.survey(some, survey.Memory(tmp_path), label="Looking")
    assert [one.facts is None for one in first] == [False, True, False, False, False, False]
    monkeypatch.setattr(survey, "examine", lambda *given: pytest.fail("read again"))
    second = survey.survey(some, survey.Memory(tmp_path), label="Looking")
    assert plain(second) == plain(first)
    for one, other in zip(first, second, strict=True):
        assert (one.fingerprint is None) == (other.fingerprint is None)
        assert one.fingerprint is None or np.array_equal(one.fingerprint, other.fingerprint)
    assert os.stat(survey.Memory(tmp_path).file).st_mode & 0o077 == 0


def test_only_what_changed_is_read_again(some, tmp_path, monkeypatch, save):
    survey.survey(some, survey.Memory(tmp_path), label="Looking")
    save(some[1][0].path, np.ones((6, 7, 8), np.uint8))
    os.utime(some[3][0].path, ns=(1, 1))
    read, examine = [], survey.examine
    monkeypatch.setattr(survey, "examine", lambda scan, mask: (read.append(scan.path.name), examine(scan, mask))[1])
    survey.survey(some, survey.Memory(tmp_path), label="Looking")
    assert sorted(read) == ["1.nii.gz", "3.nii.gz"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"{}"])
def test_a_torn_memory_is_no_fault(some, tmp_path, damage):
    first = survey.survey(some, survey.Memory(tmp_path), label="Looking")
    file = survey.Memory(tmp_path).file
    file.write_bytes(damage)
    assert plain(survey.survey(some, survey.Memory(tmp_path), label="Looking")) == plain(first)
    monkey = survey.Memory(tmp_path)
    monkey.file = tmp_path / "scans" / "0.nii.gz" / "below a file.npz"
    assert plain(survey.survey(some, monkey, label="Looking")) == plain(first)


def test_the_gate_lets_through_what_fits_and_the_largest_alone():
    gate, together, most, lock = survey.Gate(10), 0, 0, threading.Lock()

    def work(needed: int) -> None:
        nonlocal together, most
        with gate.hold(needed):
            with lock:
                together += min(needed, 10)
                most = max(most, together)
            time.sleep(0.002)
            with lock:
                together -= min(needed, 10)

    threads = [threading.Thread(target=work, args=(n,)) for n in (3, 4, 99, 5, 2, 7, 1, 50)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert 0 < most <= 10 and gate.left == 10


def test_room_is_a_share_of_memory():
    assert 1 << 28 < survey.room() < 1 << 50


def test_the_home_of_the_tests_is_not_the_users(home):
    assert identifiers.cache_folder().is_relative_to(home)
