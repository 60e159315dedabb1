"""Gzip and zlib unpacked to no more than was asked for, however much the stream would give."""

import zlib

_MARK = b"\x1f\x8b"
_FEED = 1 << 18  # packed bytes at a time
_SPARE = 1 << 20  # bytes beyond what was asked for that are still counted


def inflate(packed: bytes, most: int, *, bare: bool = False, to_end: bool = True) -> tuple[bytes, str, int]:
    """The first `most` bytes inside (packed or not, whatever the name says), what is wrong, and how many bytes follow.

    Wrong is "", "cut off" or "damaged"; the bytes are then those before the fault. What follows is unpacked only to reach
    the checksum, never kept, and counted up to twice `most` and a mebibyte; with `to_end` false it is not looked at.
    Several members one after the other are one stream, as gzip has it; padding after them is left out.
    Bytes that are not packed come back whole, not copied. bare: one zlib stream, which carries no mark.
    """
    if not (bare or packed.startswith(_MARK)):
        return packed, "", max(0, len(packed) - most)
    view, parts = memoryview(packed), []
    have = more = at = 0
    while at == 0 if bare else view[at : at + 2] == _MARK:
        machine, waiting = zlib.decompressobj(47), b""
        while not machine.eof:
            fed = waiting or view[at : at + _FEED]
            at += 0 if waiting else len(fed)
            try:
                out = machine.decompress(fed, most - have if have < most else _FEED)
            except zlib.error:
                return _salvage(packed, most), "damaged", more
            if not (fed or out or machine.eof):
                return b"".join(parts), "cut off", more
            waiting = machine.unconsumed_tail
            if have < most:
                parts.append(out)
                have += len(out)
            else:
                more += len(out)
            if have == most and not to_end or more > most + _SPARE:
                return b"".join(parts), "", more
        at -= len(machine.unused_data)
    return b"".join(parts), "", more


def _salvage(packed: bytes, most: int) -> bytes:
    """What a damaged stream gives before its fault."""
    machine, parts, have = zlib.decompressobj(47), [], 0
    for start in range(0, len(packed), 512):
        try:
            parts.append(machine.decompress(packed[start : start + 512], most - have))
        except zlib.error:
            break
        have += len(parts[-1])
        if have >= most or machine.eof:
            break
    return b"".join(parts)
