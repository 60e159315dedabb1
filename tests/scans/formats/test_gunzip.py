"""Unpacking: no more than asked for, whole or with the fault named."""

import gzip
import zlib

import numpy as np
import pytest

from headwater.scans.formats.gunzip import inflate

NOISE = np.random.default_rng(0).integers(0, 99, 700_000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("most", [1, 540, 65_536, len(NOISE) - 1, len(NOISE)])
def test_as_much_as_asked_for(most):
    raw, damage, more = inflate(gzip.compress(NOISE, 1), most)
    assert raw == NOISE[:most] and damage == "" and more == min(len(NOISE) - most, more)
    assert inflate(gzip.compress(NOISE, 1), most, to_end=False)[0] == NOISE[:most]


def test_what_is_not_packed_comes_back_whole():
    assert inflate(NOISE, 10) == (NOISE, "", len(NOISE) - 10)


def test_members_are_one_stream_and_padding_is_left_out():
    members = b"".join(gzip.compress(NOISE[start : start + 9_999], 1) for start in range(0, len(NOISE), 9_999))
    for tail in (b"", bytes(100)):
        assert inflate(members + tail, len(NOISE)) == (NOISE, "", 0)


def test_zlib_streams():
    for window in (9, 12, 15):
        machine = zlib.compressobj(6, zlib.DEFLATED, window)
        packed = machine.compress(NOISE) + machine.flush()
        assert inflate(packed, len(NOISE), bare=True) == (NOISE, "", 0)
    assert inflate(b"", 10, bare=True) == (b"", "cut off", 0) and inflate(b"nothing", 10, bare=True)[1] == "damaged"


def test_cut_off_and_damaged():
    packed = gzip.compress(NOISE, 1)
    raw, damage, _ = inflate(packed[: len(packed) // 2], len(NOISE))
    assert damage == "cut off" and NOISE.startswith(raw) and 0.4 < len(raw) / len(NOISE) < 0.6
    assert inflate(packed[:-3], len(NOISE))[1] == "cut off"
    wrong_sum = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    assert inflate(wrong_sum, len(NOISE))[1] == "damaged"
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    raw, damage, _ = inflate(bytes(broken), len(NOISE))
    assert damage == "damaged" and raw[:200_000] == NOISE[:200_000]


def test_a_bomb_is_not_unpacked():
    machine = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(machine.compress(bytes(1 << 20)) for _ in range(200)) + machine.flush()
    raw, damage, more = inflate(bomb, 1000)
    assert len(raw) == 1000 and damage == "" and more < 2 << 20
