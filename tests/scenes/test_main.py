"""The program `python -m guided_diffusion.scenes`: its folder layout and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.scenes.__main__ import main
from guided_diffusion.scenes.render import render, scene_rng


def test_main_writes_the_istd_layout(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--n", "2", "--size", "32", "--seed", "9", "--split", "train"])
    scene = render(scene_rng(9, 1), 32)
    for folder, expected in (("A", scene.shadow), ("B", scene.mask * np.uint8(255)), ("C", scene.free)):
        files = sorted((tmp_path / "train" / f"train_{folder}").iterdir())
        assert [file.name for file in files] == ["0000.png", "0001.png"]
        with Image.open(files[1]) as image:
            assert np.array_equal(np.asarray(image), expected)
    with Image.open(tmp_path / "train" / "train_matte" / "0001.png") as image:
        assert np.abs(np.asarray(image) / 65535 - scene.matte).max() < 1e-5
    with np.load(tmp_path / "train" / "train_truth" / "0001.npz") as truth:
        assert np.array_equal(truth["matte"], scene.matte)
        assert np.array_equal(truth["transmission"], scene.transmission)


def test_main_refuses_bad_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", "x", "--n", "0"])
    assert "need --n >= 1" in capsys.readouterr().err
