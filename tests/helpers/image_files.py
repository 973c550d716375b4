"""PNG and TIFF files made byte by byte."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

import numpy as np

RNG = np.random.default_rng(0)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bytes(width: int, height: int, depth: int, colour: int, rows: list[bytes], adam7: int = 0) -> bytes:
    """A PNG by hand; `rows` carry their filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, adam7)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def filtered_rows(wide: np.ndarray) -> list[bytes]:
    """16-bit rows under the PNG filters None, Sub and Up in turn."""
    raw = wide.astype(">u2").reshape(wide.shape[0], -1).view(np.uint8).astype(int)
    step = wide.shape[2] * 2
    rows = []
    for y, line in enumerate(raw):
        left = np.concatenate([np.zeros(step, int), line[:-step]])
        above = raw[y - 1] if y else np.zeros_like(line)
        rows.append(bytes([y % 3]) + ((line - [0, left, above][y % 3]) % 256).astype(np.uint8).tobytes())
    return rows


def tiff_bytes(wide: np.ndarray, order: str, deflate: bool, planes: int = 3) -> bytes:
    """A one-strip 16-bit RGB TIFF by hand, little ("<") or big (">") endian."""
    data = wide.astype(order + "u2").tobytes()
    data = zlib.compress(data) if deflate else data
    height, width = wide.shape[:2]
    bits_at = 8 + len(data) + len(data) % 2
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, planes, bits_at),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, planes),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", bits_at + 2 * planes)
    out += data + b"\0" * (len(data) % 2) + struct.pack(f"{order}{planes}H", *[16] * planes)
    out += struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        single_short = kind == 3 and count == 1
        out += struct.pack(order + "HHI", tag, kind, count)
        out += struct.pack(
            order + ("HH" if single_short else "I"), *([value, 0] if single_short else [value])
        )
    return out + b"\0\0\0\0"


def to_8_bits(wide: np.ndarray) -> np.ndarray:
    """round(v / 257) in exact fractions."""
    return np.vectorize(lambda v: round(Fraction(int(v), 257)))(wide).astype(np.uint8)


def wide_values(channels: int) -> np.ndarray:
    wide = RNG.integers(0, 65536, (6, 5, channels))
    wide[0, :, 0] = [0, 128, 129, 65406, 65535]  # where rounding and cutting off differ
    return wide
