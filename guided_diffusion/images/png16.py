"""PNG with 16 bits a channel, which Pillow cannot write in colour (ISO/IEC 15948; W3C PNG, third edition)."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = 2  # colour type: red, green, blue
UP = 2  # filter type: each byte less the one above it


def encode(image: np.ndarray, chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Encode uint16 (H, W, 3), neither side 0; `chunks` (type, data) go before the pixels."""
    height, width = image.shape[:2]
    raw = image.astype(">u2").view(np.uint8).reshape(height, width * 6)
    lines = np.empty((height, 1 + raw.shape[1]), np.uint8)
    lines[:, 0] = UP
    lines[0, 1:] = raw[0]  # above the first line all is 0
    np.subtract(raw[1:], raw[:-1], out=lines[1:, 1:])  # modulo 256
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
