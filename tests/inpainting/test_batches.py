"""Batches: what is read ahead, claimed and sampled together, and that no byte depends on it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.codec import PixelCodec
from guided_diffusion.engine import Engine, load_config
from guided_diffusion.images.pairs import Pair
from guided_diffusion.inpainting import inpainter
from guided_diffusion.inpainting.inpainter import MAX_PENDING_BATCHES
from guided_diffusion.inpainting.task import InpaintTask
from guided_diffusion.output.results import Progress, Result
from tests.helpers.project import Project, image
from tests.helpers.results import inpainted, inpainted_image, results


def test_result_is_independent_of_batch_and_other_images(project: Project) -> None:
    conf = project(count=4)
    singly = results(conf, "data.batch_size=1")
    alone = results(conf, "data.offset=2", "data.max_len=1")
    assert np.array_equal(inpainted_image(alone["p2"]), inpainted_image(singly["p2"]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("labels", [False, True])
def test_result_is_equal_in_each_batch_after_many_steps(
    project: Project, tiny_weights: Path, precision: str, labels: bool
) -> None:
    """Two hundred and more, in which a single bit more or less would have shown."""
    settings: dict[str, Any] = {"timestep_respacing": "60", "paste_known": False}
    settings["schedule_jump_params"] = {"jump_length": 5, "jump_n_sample": 4}
    if labels:
        state = torch.load(tiny_weights)
        width = len(state["time_embed.2.bias"])
        state["label_emb.weight"] = torch.randn(1000, width, generator=torch.Generator().manual_seed(0))
        torch.save(state, "labelled.pt")
        settings |= {"model_path": "labelled.pt", "class_cond": True}
    conf = project(4, **settings)
    engine = Engine(load_config(conf, [f"precision={precision}", "data.batch_size=1"]))
    assert engine.nfe >= 200
    singly = {result.name: result for result in engine()}
    for batch in ("3", "auto"):
        others = results(conf, f"precision={precision}", f"data.batch_size={batch}")
        assert all(
            np.array_equal(inpainted_image(result), inpainted_image(others[name]))
            for name, result in singly.items()
        )


def test_inpaint_arrays_takes_many_shapes(project: Project) -> None:
    engine = Engine(load_config(project(count=0, data={"batch_size": 2})))
    sizes = [(16, 16), (24, 61), (16, 16), (61, 24), (24, 61)]
    names = [f"p{i}" for i in range(len(sizes))]
    images = [image(i, *size) for i, size in enumerate(sizes)]
    keeps = [np.zeros(size, bool) for size in sizes]
    by_name = {
        e.name: inpainted_image(e)
        for e in engine.inpaint_arrays(names, images, keeps)
        if isinstance(e, Result)
    }
    assert [by_name[name].shape[:2] for name in names] == sizes
    alone = [e for e in engine.inpaint_arrays(names[1:2], images[1:2], keeps[1:2]) if isinstance(e, Result)]
    assert np.abs(inpainted_image(alone[0]).astype(int) - by_name["p1"]).max() <= 1


def test_queue_limits_pending_shapes(project: Project) -> None:
    """Each waits for others of its shape, but not until all have been read."""
    conf = project(count=0, data={"gt_path": "gts", "mask_path": "masks", "batch_size": 2})
    for i in range(12):
        Image.fromarray(image(i, 16, 18 + 2 * i)).save(f"gts/p{i:02d}.png")
        Image.fromarray(np.zeros((16, 18 + 2 * i), bool)).save(f"masks/p{i:02d}.png")
    engine, read = Engine(load_config(conf)), []
    pairs = engine.pairs()
    first = next(engine(read.append(pair.name) or pair for pair in pairs))
    assert inpainted(first) is not None and len(read) == (MAX_PENDING_BATCHES + 1) * 2, (
        "a batch is read ahead"
    )
    assert len(list(engine(pairs))) == 12


def test_queue_limits_pending_bytes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_config(project(count=7)))
    [first, *_] = engine()
    monkeypatch.setattr(inpainter, "MAX_PENDING_BYTES", 2 * replace(first, outputs={}).nbytes)
    names = dict.fromkeys(event.names for event in engine.stream() if isinstance(event, Progress))
    assert list(names) == [("p0", "p1", "p2"), ("p3", "p4", "p5"), ("p6",)]


def test_stream_claims_at_most_max_batch(project: Project) -> None:
    engine = Engine(load_config(project(count=10)))
    taken: list[str] = []
    events = engine.stream((taken.append(pair.name) or pair for pair in engine.pairs()), max_batch=3)
    assert next(events).names == ("p0", "p1", "p2") and len(taken) == 4, "and one that is read ahead"
    assert len([event for event in events if isinstance(event, Result)]) == 10
    alone = engine.stream((taken.append(pair.name) or pair for pair in engine.pairs()), max_batch=1)
    taken.clear()
    assert next(alone).names == ("p0",) and taken == ["p0"]


def test_stream_prepares_in_another_thread_and_stops_when_closed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, read, gate = Engine(load_config(project(count=10), ["data.batch_size=5"])), [], threading.Event()
    prepare = InpaintTask.prepare

    def waiting(task: InpaintTask, pair: Pair, *args: Any) -> Any:
        read.append((pair.name, threading.current_thread()))
        assert pair.name < "p5" or gate.wait(10)
        return prepare(task, pair, *args)

    monkeypatch.setattr(InpaintTask, "prepare", waiting)
    events = engine.stream()
    next(events)
    threading.Timer(0.05, gate.set).start()
    events.close()
    assert 5 <= len(read) <= 6
    assert threading.main_thread() not in {thread for _, thread in read}


def test_seconds_are_read_after_the_device_is_done(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU works on after the last step is asked for, until its numbers are read."""
    now, decode = [100.0], PixelCodec.decode

    def waiting(codec: PixelCodec, x: torch.Tensor) -> np.ndarray:
        now[0] += 5
        return decode(codec, x)

    monkeypatch.setattr(PixelCodec, "decode", waiting)
    monkeypatch.setattr(inpainter.time, "monotonic", lambda: now[0])
    conf = project(count=2)
    assert [result.outputs["inpainted"].seconds for result in results(conf).values()] == [5, 5], (
        "two in ten seconds"
    )
    Image.fromarray(image(0, 16, 40)).save("gts/p0.png")
    Image.fromarray(np.zeros((16, 40), bool)).save("masks/p0.png")
    assert results(conf, "windows=overlap", "data.max_len=1")["p0"].outputs["inpainted"].seconds == 5
