"""Cost of a training run against a fake clock and hand-made counts."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.training import run_cost
from guided_diffusion.training.run_cost import RunCost, count_flops, current_row, summarize

CPU = torch.device("cpu")


def test_run_cost_divides_counts_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(run_cost, "matrix_rate", lambda *_: 4096.0)
    monkeypatch.setattr(run_cost.time, "monotonic", lambda: now)
    earlier = [{"images": 10, "seconds": 5.0}]
    cost = RunCost(earlier, 7, 3, 2048, CPU, "bf16")
    now = 104.0
    first, second = cost.rows(9)
    assert first == earlier[0] and earlier == [{"images": 10, "seconds": 5.0}]
    wanted = {"precision": "bf16", "first_step": 7, "last_step": 9, "images": 6, "seconds": 4.0}
    wanted |= {"images_per_second": 1.5, "flops_per_step": 2048, "flops_per_second": 1024.0}
    wanted |= {"matrix_flops_per_second": 4096.0, "share": 0.25}
    assert {key: second[key] for key in wanted} == wanted and "CPU" in str(second["device"])
    whole = summarize([first, second])
    assert (whole["images"], whole["seconds"], whole["slices"]) == (16, 9.0, [first, second])


def test_current_row_reads_names_of_earlier_versions() -> None:
    old = {"device": "a CPU", "pictures": 6, "pictures_per_second": 1.5, "seconds": 4.0}
    new = {"device": "a CPU", "images": 6, "images_per_second": 1.5, "seconds": 4.0}
    assert current_row(old) == new and current_row(new) == new
    assert summarize([current_row(old)])["images"] == 6


def test_count_flops_counts_the_matrix_products() -> None:
    """Forward one product; backward one for each weight and, except in the first layer, one for its input."""
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4, bias=False))
        flops = count_flops(network, [torch.empty(3, 8)])
    first, second = 2 * 3 * 8 * 16, 2 * 3 * 16 * 4
    assert flops == 2 * first + 3 * second
