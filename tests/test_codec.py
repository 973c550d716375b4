import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.codec import Codec, PixelCodec

LEVELS = np.arange(256, dtype=np.uint8)


def test_decode_inverts_encode_at_every_level() -> None:
    codec: Codec = PixelCodec()
    image = np.stack([LEVELS, LEVELS[::-1], LEVELS], axis=1).reshape(16, 16, 3)
    encoded = codec.encode([image, 255 - image])
    assert encoded.shape == (2, 3, 16, 16) and encoded.dtype == torch.float32 and encoded.is_contiguous()
    np.testing.assert_array_equal(codec.decode(encoded), np.stack([image, 255 - image]))


def test_encode_follows_float32_arithmetic() -> None:
    image = LEVELS.reshape(16, 16, 1).repeat(3, 2)
    expected = LEVELS.astype(np.float32) / np.float32(127.5) - np.float32(1)
    got = PixelCodec().encode([image])[0, 1].numpy().ravel()
    assert got.tobytes() == expected.tobytes()
    assert got[0] == -1 and got[255] == 1


@given(st.floats(-3, 3, width=32))
def test_decode_rounds_to_the_nearest_level(value: float) -> None:
    level = int(PixelCodec().decode(torch.full((1, 3, 1, 1), value))[0, 0, 0, 0])
    exact = min(max((value + 1) * 255 / 2, 0), 255)
    assert abs(level - exact) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decode_takes_other_precisions(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 0.25, 1.0], dtype=dtype).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(PixelCodec().decode(x).ravel(), [0, 159, 255])


def test_decode_takes_infinite_values() -> None:
    x = torch.zeros(2, 3, 4, 5)
    x[0, 0], x[1, 2] = float("inf"), float("-inf")
    images = PixelCodec().decode(x)
    assert images.shape == (2, 4, 5, 3) and images.dtype == np.uint8
    assert (images[0, ..., 0] == 255).all() and (images[1, ..., 2] == 0).all()


def test_decode_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        PixelCodec().decode(torch.full((1, 3, 2, 2), float("nan")))


@pytest.mark.parametrize(
    "images",
    [
        [],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 4), np.uint8)],
    ],
)
def test_encode_refuses_other_images(images: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="cannot encode"):
        PixelCodec().encode(images)
