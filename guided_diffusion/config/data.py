"""Settings of the images and masks to read and of the folders to write."""

from dataclasses import dataclass
from typing import Literal

from guided_diffusion.config.builder import Count, Index


@dataclass(frozen=True)
class DataConfig:
    """Images and masks: files or folders, local or remote. A mask has the name of its image."""

    gt_path: str | tuple[str, ...] | None = None
    """Image or folder of images, or a list of them; `null` = generate images (`generate`)."""
    mask_path: str | None = None
    """Mask, or folder of masks; a single mask serves all images. `auto` = detect the shadows (task
    `remove_shadow`)."""
    batch_size: Count | Literal["auto"] = "auto"
    """Maximum number of images or crop windows in a batch. `auto` = a size that suits the device. It is
    halved when memory runs out."""
    max_len: Count | None = None
    """Maximum number of images to process; `null` = all from `offset` on."""
    offset: Index = 0
    """Number of images to skip, in order of their names."""
    mask_is: Literal["keep", "shadow"] = "keep"
    """Meaning of 255 in a mask. `keep`: pixels to keep; `shadow`: pixels to inpaint or to remove a shadow
    from."""
    shadow_free_path: str | None = None
    """Ground truth without shadows, image or folder. It is shown beside the results and changes none of
    them."""

    @property
    def gt_paths(self) -> tuple[str, ...]:
        """`gt_path` as a tuple, empty when it is not set."""
        return (self.gt_path,) if isinstance(self.gt_path, str) else self.gt_path or ()


@dataclass(frozen=True)
class PathsConfig:
    """Folders of the results; `null` = a folder in `log/<name>/`."""

    log: str | None = None
    """Folder of run.json, run.log and overview.png; `null` = `log/<name>`."""
    srs: str | None = None
    """Inpainted images; `null` = `log/<name>/inpainted`."""
    lrs: str | None = None
    """Input images with the hole in black; `null` = `log/<name>/gt_masked`."""
    gts: str | None = None
    """Input images; `null` = `log/<name>/gt`."""
    gt_keep_masks: str | None = None
    """Masks that were used, 255 = keep; `null` = `log/<name>/gt_keep_mask`."""
    shadow_frees: str | None = None
    """Images without their shadows; `null` = `log/<name>/shadow_free`."""
    shadow_mattes: str | None = None
    """Shadow mattes, 255 = full shadow; `null` = `log/<name>/shadow_matte`."""
    shadow_fields: str | None = None
    """Light that the shadow lets through, 255 = all; `null` = `log/<name>/shadow_field`."""
