"""Whole files → damaged ones."""

import random

WEB_PAGE = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>quota exceeded</body></html>\n"
HUGE = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x00" * 8,
    (1 << 40).to_bytes(8, "little"),
    (1 << 40).to_bytes(8, "big"),
)


def variants(data: bytes, copies: int, rng: random.Random):
    """(what was done, bytes): empty, a web page and noise, then `copies` of other damage at random places."""
    yield "empty", b""
    yield "web page", WEB_PAGE
    yield "noise", rng.randbytes(500)
    for number in range(copies):
        kind = _DAMAGES[number % len(_DAMAGES)]
        yield kind.__name__.strip("_"), kind(data, rng)


def _place(data: bytes, rng: random.Random) -> int:
    """Headers matter most: half of the places lie in the first 200 bytes, a quarter in the last."""
    low, high = rng.choice(((0, 200), (0, 200), (len(data) - 200, len(data)), (0, len(data))))
    return rng.randrange(max(0, low), max(1, min(len(data), high)))


def _cut(data, rng):
    return data[: _place(data, rng)]


def _flip(data, rng, count=1):
    damaged = bytearray(data)
    for _ in range(count):
        damaged[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _flips(data, rng):
    return _flip(data, rng, rng.choice((3, 10, 100)))


def _huge(data, rng):
    """A length beyond reason where one may stand."""
    place, claim = _place(data, rng), rng.choice(HUGE)
    return data[:place] + claim + data[place + len(claim) :]


def _noise(data, rng):
    place, length = _place(data, rng), rng.choice((1, 4, 64))
    return data[:place] + rng.randbytes(length) + data[place + length :]


def _lost(data, rng):
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 16, 512)) :]


def _doubled(data, rng):
    place = _place(data, rng)
    return data[: place + 40] + data[place:]


def _zeros(data, rng):
    place, length = _place(data, rng), rng.choice((4, 64, 4096))
    return data[:place] + bytes(min(length, len(data) - place)) + data[place + length :]


_DAMAGES = (_cut, _flip, _huge, _flips, _noise, _lost, _doubled, _zeros)
