"""Image files: read, write and list them; resize arrays.

An image is a uint8 array (H, W, 3), RGB, 0..255; a deep one is uint16, 0..65535. Paths are local or remote,
as in `files`.
"""

import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from guided_diffusion.errors import ImageError
from guided_diffusion.images import png16
from guided_diffusion.images.files import AnyPath, file_stat, list_files, path_kind, read_bytes, write_bytes

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 120_000_000  # an image above this is refused from its header, before any pixel is decoded
MAX_BYTES = 1 << 30  # a file above this is refused unread; 120 megapixels of 16-bit RGB are 0.7 GB

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_KERNELS = {
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "bilinear": Image.Resampling.BILINEAR,
}

# Pillow reads 16-bit colour by keeping the high byte of each value. Decoding once more with the byte order
# swapped yields the low bytes. Per raw mode: the raw mode for that, and the channels then holding low bytes.
_SWAPPED_NATIVE = "B" if sys.byteorder == "little" else "L"
_LOW_BYTES = {
    f"{mode};16{order}": (f"{mode};16{swapped}", slice(0, 3))
    for mode in ("RGB", "RGBA", "RGBX")
    for order, swapped in (("B", "L"), ("L", "B"), ("N", _SWAPPED_NATIVE))
}
_LOW_BYTES["LA;16B"] = ("RGBA", slice(1, 2))  # grey high, grey low, alpha high, alpha low


def list_images(root: AnyPath) -> list[str]:
    """List the relative POSIX names of all images (by extension) below a folder, sorted, none hidden."""
    return [name for name in list_files(root) if PurePosixPath(name).suffix.lower() in EXTENSIONS]


def read_image(path: AnyPath) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), turned upright by its EXIF orientation, fully decoded.

    Formats: PNG, JPEG, WebP, TIFF and BMP; of an animation the first frame. Grey is repeated into three
    channels, alpha is dropped (colours stay as stored), 16-bit values become round(v / 257).
    Raises ImageError for whatever cannot be read as a whole, and for files above MAX_PIXELS or MAX_BYTES.
    """
    return eight_bits(read_deep(path))


def read_deep(path: AnyPath) -> np.ndarray:
    """Read an image like `read_image`, but keep the values of a 16-bit file, uint16 (H, W, 3)."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata (the pixels are whole) and of sizes below our own limit.
            warnings.simplefilter("ignore")
            return _decode(_read_bytes(path))
    except Exception as error:  # broken bytes make the decoders raise nearly anything
        raise ImageError(f"{path}: {_reason(error)}") from error


def from_pil(pil_image: Image.Image) -> np.ndarray:
    """Convert a Pillow image of any mode to the uint8 (H, W, 3) that `read_image` would give."""
    return eight_bits(np.ascontiguousarray(_upright(_to_rgb(pil_image), pil_image)))


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Convert to uint8: a uint8 image is returned as it is, uint16 becomes round(v / 257), without ties."""
    if image.dtype != np.uint16:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read (PNG, JPEG, WebP, TIFF or BMP)"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return f"enormous; the limit is {MAX_PIXELS:,} pixels, shrink it first"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ImageError) else f"cannot be read: {text}"


def _read_bytes(path: AnyPath) -> bytes:
    kind = path_kind(path)
    if kind != "file":
        raise ImageError("no such file" if kind == "missing" else "a folder, not an image")
    size, _ = file_stat(path)
    if size == 0:
        raise ImageError("the file is empty")
    if size > MAX_BYTES:
        raise ImageError(f"enormous: {size:,} bytes, the limit is {MAX_BYTES:,}, shrink it first")
    return read_bytes(path)


def _open(data: bytes) -> ImageFile.ImageFile:
    pil_image = Image.open(io.BytesIO(data), formats=_FORMATS)
    assert isinstance(pil_image, ImageFile.ImageFile)
    width, height = pil_image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"enormous: {width}x{height} pixels; the limit is {MAX_PIXELS:,}, shrink it first")
    return pil_image


def _decode(data: bytes) -> np.ndarray:
    pil_image = _open(data)
    raw_modes = {_raw_mode(tile.args) for tile in pil_image.tile}  # loading empties the list
    pil_image.load()
    image = _to_rgb(pil_image)
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else None
    if raw_mode in _LOW_BYTES:
        low = _low_bytes(data, *_LOW_BYTES[raw_mode])
        image = image.astype(np.uint16) * 256 + low
    return np.ascontiguousarray(_upright(image, pil_image))


def _raw_mode(args: Any) -> Any:
    return args[0] if isinstance(args, tuple) and args else args


def _low_bytes(data: bytes, raw_mode: str, channels: slice) -> np.ndarray:
    pil_image = _open(data)
    pil_image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in pil_image.tile
    ]
    pil_image.load()
    return np.asarray(pil_image)[..., channels]


def _to_rgb(pil_image: Image.Image) -> np.ndarray:
    if pil_image.mode.startswith("I;16"):
        return np.repeat(np.asarray(pil_image).astype(np.uint16)[..., None], 3, axis=2)
    if pil_image.mode in ("I", "F"):
        raise ImageError(f"its pixels are 32-bit numbers (mode {pil_image.mode}); save it with 8 or 16 bits")
    return np.asarray(pil_image.convert("RGB"))  # of alpha and transparency Pillow keeps the colours below


def _upright(image: np.ndarray, pil_image: Image.Image) -> np.ndarray:
    try:
        orientation = pil_image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block does not matter: the pixels are whole
        return image
    swap = image.swapaxes(0, 1)
    turned = {
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: swap,
        6: swap[:, ::-1],
        7: swap[::-1, ::-1],
        8: swap[::-1],
    }
    return turned.get(orientation, image)


def write_image(path: AnyPath, array: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically; make folders as needed.

    Raises ValueError for other arrays, OSError when the file cannot be written.

    Args:
        path: of the file.
        array: uint8 or uint16 (H, W, 3), uint8 (H, W) or bool (H, W).
        text: goes into the PNG's text chunks.
    """
    write_bytes(path, _encode_png(array, text or {}))


def _encode_png(array: np.ndarray, text: Mapping[str, str]) -> bytes:
    if array.dtype == np.bool_ and array.ndim == 2:
        array = array.astype(np.uint8) * 255
    colour = array.ndim == 3 and array.shape[2] == 3
    if not (colour and array.dtype == np.uint16 or array.dtype == np.uint8 and (colour or array.ndim == 2)):
        actual = f"{array.dtype} {array.shape}"
        raise ValueError(
            f"cannot write {actual}; give uint8 or uint16 (H, W, 3), uint8 (H, W) or bool (H, W)"
        )
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    if array.dtype == np.uint16:
        return png16.encode(array, [(kind, data) for kind, data, *_ in chunks.chunks])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_text(path: AnyPath) -> dict[str, str]:
    """Read the text chunks of a PNG; {} when the file is missing, has none, or is not a whole PNG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pil_image = _open(_read_bytes(path))
            if not isinstance(pil_image, PngImagePlugin.PngImageFile):
                return {}
            return {key: str(value) for key, value in pil_image.text.items()}  # decodes the pixels too
    except Exception:  # as in read_image; a broken file has no text
        return {}


def resize(array: np.ndarray, size: tuple[int, int], kernel: str = "lanczos") -> np.ndarray:
    """Resize an array with antialiasing, every channel by itself. The same size returns a copy.

    Args:
        array: (H, W, C) or (H, W), uint8 or float32.
        size: (height, width), pixels.
        kernel: "lanczos" (sharpest, may overshoot), "hamming" or "bilinear" (weights never negative).
    """
    if array.shape[:2] == tuple(size):
        return array.copy()
    if array.ndim == 2:
        return _resize_plane(array, size, kernel)
    planes = [_resize_plane(array[..., channel], size, kernel) for channel in range(array.shape[2])]
    return np.stack(planes, axis=2)


def _resize_plane(plane: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    height, width = size
    pil_image = Image.fromarray(np.ascontiguousarray(plane))  # uint8 -> "L", float32 -> "F"
    return np.array(pil_image.resize((width, height), _KERNELS[kernel]))
