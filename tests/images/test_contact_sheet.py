"""Contact sheets: layout, labels and bad input."""

import numpy as np
import pytest

from guided_diffusion.images.contact_sheet import contact_sheet


def test_contact_sheet_layout() -> None:
    red, grey = np.zeros((10, 20, 3), np.uint8), np.full((90, 30), 77, np.uint8)
    red[..., 0] = 255
    sheet = contact_sheet([[red, grey], [np.ones((4, 4), bool)]], ["one", "two"], ["first", "second"], 40)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * 6 + 2 * 40
    is_red = (sheet == [255, 0, 0]).all(-1)
    rows, columns = np.flatnonzero(is_red.any(1)), np.flatnonzero(is_red.any(0))
    # 10x20 doubled is 20x40: it fills the cell's width, starting one gap from the left
    assert is_red.sum() == 800 and (columns[0], columns[-1], rows[-1] - rows[0]) == (6, 45, 19)
    is_grey = (sheet == 77).all(-1)
    columns = np.flatnonzero(is_grey.any(0))
    assert np.flatnonzero(is_grey.any(1)).size == 40 and 12 <= columns.size <= 14  # 90x30 shrunk to 40x13
    assert (sheet == 255).all(-1).sum() == 1600


def test_contact_sheet_shortens_long_labels_and_counts_them() -> None:
    cell = np.zeros((8, 8, 3), np.uint8)
    short = contact_sheet([[cell]], ["t"], ["a"], 60)
    assert contact_sheet([[cell]], ["t" * 300], ["a" * 300], 60).shape == short.shape
    assert contact_sheet([[cell]], [], None, 60).shape[0] < short.shape[0]
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        contact_sheet([[cell], [cell]], [], ["a"], 60)
