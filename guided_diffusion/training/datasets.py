"""Sources of training data: a folder of images, and endless procedural scenes with ground truth."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from guided_diffusion.codec import Codec
from guided_diffusion.errors import DatasetError
from guided_diffusion.images.files import AnyPath, join_path
from guided_diffusion.images.formats import EXTENSIONS, list_images, read_image, resize
from guided_diffusion.scenes.render import render, render_labelled, scene_rng


class ImageFolder(Dataset[torch.Tensor]):
    """All images below a folder, as float32 (3, S, S) in [-1, 1]: item `i` is image `i % len`.

    The shorter side is resized to S and the centre is cut out. With `random_crop` the shorter side is drawn
    between S and 1.25 S, and the crop lies anywhere. With `random_flip` half of the items are mirrored. All
    randomness of item `i` depends on (seed, i) alone, not on workers or order. Indices may exceed the number
    of images: a later epoch (i + len) sees other crops. The constructor raises DatasetError if there are no
    images; an item raises ImageError.
    """

    def __init__(
        self,
        root: AnyPath,
        image_size: int,
        random_crop: bool,
        random_flip: bool,
        seed: int,
        codec: Codec,
    ) -> None:
        self.root, self.image_size, self.seed = root, image_size, seed
        self.random_crop, self.random_flip, self.codec = random_crop, random_flip, codec
        self.names = list_images(root)
        if not self.names:
            raise DatasetError(f"no images ({' '.join(EXTENSIONS)}) in {root}; mend the path")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng((self.seed, index))
        image = read_image(join_path(self.root, self.names[index % len(self.names)]))
        image = self._crop(image, rng)
        if self.random_flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return self.codec.encode([image])[0]

    def _crop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.image_size
        short = int(rng.integers(size, size * 5 // 4 + 1)) if self.random_crop else size
        scale = short / min(image.shape[:2])
        height, width = (max(short, round(side * scale)) for side in image.shape[:2])
        image = resize(image, (height, width))
        top, left = (height - size) // 2, (width - size) // 2
        if self.random_crop:
            top, left = int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))
        return image[top : top + size, left : left + size]


class TripletStream(Dataset[torch.Tensor]):
    """Endless procedural scenes with their ground truth: item `i` is scene `i` of `seed`.

    uint8 (7, S, S): the image with shadow (3 planes), without (3), and the matte, 255 = all direct light is
    blocked.
    """

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed

    def __getitem__(self, index: int) -> torch.Tensor:
        scene = render(scene_rng(self.seed, index), self.image_size)
        matte = np.rint(255 * scene.matte).astype(np.uint8)[..., None]
        planes = np.concatenate([scene.shadow, scene.free, matte], axis=2)
        return torch.from_numpy(np.moveaxis(planes, 2, 0).copy())


class LabelledStream(Dataset[torch.Tensor]):
    """Endless procedural images with the material of each pixel: item `i` is scene `i` of `seed`.

    uint8 (4, S, S): the image (3 planes) and the material, as `scenes.render.render_labelled` numbers it.
    """

    def __init__(self, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed

    def __getitem__(self, index: int) -> torch.Tensor:
        image, kinds = render_labelled(scene_rng(self.seed, index), self.image_size)
        planes = np.concatenate([image, kinds[..., None]], axis=2)
        return torch.from_numpy(np.moveaxis(planes, 2, 0).copy())
