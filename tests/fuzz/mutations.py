"""Damage that knows nothing of the format: truncations, flipped bits, overwritten, missing, doubled and foreign parts."""

from __future__ import annotations

import random
from collections.abc import Mapping


def truncated(content: bytes, rng: random.Random) -> bytes:
    """Cut off, more often near the beginning, where the headers are."""
    return content[: int(len(content) * rng.random() ** 2)]


def flipped_bits(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits the other way."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flipped_header(content: bytes, rng: random.Random) -> bytes:
    """Flipped bits among the first 200 bytes."""
    return flipped_bits(content[:200], rng) + content[200:]


def overwritten(content: bytes, rng: random.Random) -> bytes:
    """A block of zeros, ones or noise."""
    begin, size = rng.randrange(len(content)), rng.choice((1, 2, 4, 16, 100))
    block = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"\x7f\xff\xff\xff" * (size // 4)))
    return content[:begin] + block + content[begin + len(block) :]


def shortened(content: bytes, rng: random.Random) -> bytes:
    """A part in the middle is missing."""
    begin, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:begin] + content[end:]


def doubled(content: bytes, rng: random.Random) -> bytes:
    """A part stands there twice."""
    begin, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:end] + content[begin:]


def spliced(head: bytes, tail: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return head[: rng.choice((4, 8, 16, 64, len(head) // 2))] + tail[rng.choice((0, 4, 16, 64, len(tail) // 2)) :]


ANYWHERE = (truncated, flipped_bits, flipped_header, overwritten, shortened, doubled)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One of the kinds of damage, sometimes two."""
    for _ in range(rng.choice((1, 1, 2))):
        if content:
            content = rng.choice(ANYWHERE)(content, rng)
    return content


def mutants(bases: Mapping[str, bytes], count: int, rng: random.Random) -> dict[str, bytes]:
    """`count` damaged files, some made of two; the suffix is that of the base."""
    found = {}
    names = sorted(bases)
    for number in range(count):
        name = names[number % len(names)]
        stem, dot, suffix = name.partition(".")
        if number % 6 == 5:
            content = spliced(bases[name], bases[rng.choice(names)], rng)
        else:
            content = mutate(bases[name], rng)
        found[f"{stem}-{number}{dot}{suffix}"] = content
    return found
