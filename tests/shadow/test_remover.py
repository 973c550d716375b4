"""Task remove_shadow: what the engine promises of both outputs, with a stand-in that removes the shadow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.engine import Engine, load_config
from guided_diffusion.output.results import Progress, Result
from tests.helpers.log_folder import INPAINTED, SHADOW_FREE, pixels, run_json, stamps
from tests.helpers.negative import RELIT_KEEP as KEEP
from tests.helpers.negative import Negative
from tests.helpers.project import NFE, Cli, Project, image, keep_mask
from tests.helpers.results import results, shadow_free, shadow_free_image


def test_outputs_equal_the_input_beyond_the_shadow_s_reach(shaded: Project, cli: Cli) -> None:
    outcome = cli("--conf_path", shaded())
    assert (outcome.code, outcome.err) == (0, "")
    for i in range(3):
        for folder in (SHADOW_FREE, INPAINTED):
            written = pixels(folder / f"p{i}.png")
            assert np.array_equal(written[KEEP], image(i)[KEEP])
            assert (written[~KEEP] != image(i)[~KEEP]).mean() > 0.8


def test_log_folder_holds_every_output_and_companion(shaded: Project, cli: Cli) -> None:
    cli("--conf_path", shaded(1))
    names = {
        *("inpainted", "shadow_free", "gt_masked", "gt_keep_mask", "gt", "shadow_matte", "shadow_field"),
        *("overview.png", "run.json", "run.log"),
    }
    assert {path.name for path in Path("log/run").iterdir()} == names
    assert np.array_equal(pixels("log/run/gt_keep_mask/p0.png") == 255, KEEP)
    assert np.array_equal(pixels("log/run/gt_masked/p0.png"), image(0) * KEEP[..., None])
    matte, field = pixels("log/run/shadow_matte/p0.png"), pixels("log/run/shadow_field/p0.png")
    assert np.array_equal(matte, np.where(keep_mask(), 0, 102).astype(np.uint8))  # 0.4 of 255
    assert field.shape == (16, 16, 3) and (field == 51).all()


def test_paths_move_folders(shaded: Project, cli: Cli) -> None:
    paths = {"shadow_frees": "a", "shadow_mattes": "b/c", "shadow_fields": "d", "srs": "e"}
    cli("--conf_path", shaded(1, paths=paths))
    assert all(Path(folder, "p0.png").exists() for folder in paths.values())


def test_relight_gets_image_shadow_settings_and_prior(shaded: Project, negative: Negative) -> None:
    conf = shaded(1)
    results(conf)
    results(conf, "relight.prior=diffusion")
    [(given, shadow, settings, nothing, _), (*_, prior, _)] = negative.calls
    assert np.array_equal(given, image(0)) and given.dtype == np.uint8
    assert shadow.dtype == bool and np.array_equal(shadow, ~keep_mask())
    assert settings == load_config(conf).relight and nothing is None
    assert prior.process.num_timesteps == 6 and isinstance(prior.generator, torch.Generator)
    assert (prior.side, prior.multiple) == (16, 2)


def test_noise_depends_on_seed_and_name_alone(shaded: Project) -> None:
    conf = shaded(4, relight={"prior": "diffusion"})
    one, four = results(conf), results(conf, "data.batch_size=4")
    alone, other = results(conf, "data.offset=2", "data.max_len=1"), results(conf, "seed=1")

    for name in one:
        assert np.array_equal(shadow_free_image(one[name]), shadow_free_image(four[name]))
    assert np.array_equal(shadow_free_image(alone["p2"]), shadow_free_image(one["p2"]))
    assert not np.array_equal(shadow_free_image(other["p2"]), shadow_free_image(one["p2"]))


@pytest.mark.parametrize("output", ["inpainted", "shadow_free"])
def test_outputs_choose_what_is_computed(shaded: Project, cli: Cli, negative: Negative, output: str) -> None:
    conf = shaded(1, outputs=output)
    assert cli("--conf_path", conf).code == 0
    both = {"inpainted", "shadow_free"}
    assert {path.name for path in Path("log/run").iterdir()} & both == {output}
    assert len(negative.calls) == (output == "shadow_free")
    assert run_json()["nfe"] == (NFE if output == "inpainted" else 0)
    assert set(run_json()["images"]["p0"]) & both == {output}


def test_checkpoint_is_needed_only_to_inpaint_or_with_a_prior(shaded: Project, cli: Cli) -> None:
    conf = shaded(1, outputs=["shadow_free"], model_path="absent.pt")
    plan = cli("--conf_path", conf, "--dry_run")
    assert plan.code == 0 and "missing" not in plan.out
    assert "0 NFE per image (0 for shadow_free)" in plan.out
    assert cli("--conf_path", conf).code == 0
    assert "missing: absent.pt" in cli("--conf_path", conf, "--set", "outputs=inpainted", "--dry_run").out
    for key, cost in (("relight.prior=diffusion", 40), ("relight.refine=true", 1)):
        assert f"{cost} NFE per image" in cli("--conf_path", conf, "--set", key, "--dry_run").out
        assert "absent.pt" in cli("--conf_path", conf, "--set", key).err


def test_prior_gets_the_denoiser_and_counts_its_nfe(shaded: Project, negative: Negative) -> None:
    conf = shaded(1, outputs=["shadow_free"], relight={"prior": "diffusion"})
    events = list(Engine(load_config(conf)).stream())
    assert events[0] == Progress(("p0",), 3, 3)
    assert isinstance(events[1], Result) and shadow_free(events[1]) is not None
    assert shadow_free(events[1]).nfe == 3 and negative.calls[0][3] is not None


def test_run_json_describes_both_outputs(shaded: Project, cli: Cli) -> None:
    cli("--conf_path", shaded(1, relight={"prior": "diffusion"}))
    entry = run_json()["images"]["p0"]
    assert entry["inpainted"]["nfe"] == NFE and entry["shadow_free"]["nfe"] == 3
    assert entry["nfe"] == run_json()["nfe"] == NFE + 3
    seconds = entry["inpainted"]["seconds"] + entry["shadow_free"]["seconds"]
    assert entry["seconds"] == pytest.approx(seconds, abs=0.0011) and entry["inpainted"]["seconds"] > 0
    assert run_json()["config"]["relight"]["prior"] == "diffusion"
    assert run_json()["config"]["outputs"] == ["inpainted", "shadow_free"]


def test_plan_shows_the_nfe_of_both_outputs(shaded: Project, cli: Cli) -> None:
    out = cli("--conf_path", shaded(), "--dry_run").out
    assert f"({NFE} for inpainted + 0 for shadow_free), about" in out


# resuming: each output by its own key


def test_second_run_computes_nothing(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded()
    cli("--conf_path", conf)
    before = run_json(), stamps(SHADOW_FREE), stamps(INPAINTED), len(negative.calls)
    outcome = cli("--conf_path", conf)
    assert "3 of 3 images were finished before" in outcome.out
    assert (run_json(), stamps(SHADOW_FREE), stamps(INPAINTED), len(negative.calls)) == before


def test_output_asked_for_later_is_added(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded(2)
    cli("--conf_path", conf, "--set", "outputs=shadow_free")
    before = stamps(SHADOW_FREE)
    assert "were finished before" not in cli("--conf_path", conf).out
    assert stamps(SHADOW_FREE) == before and len(negative.calls) == 2 and len(stamps(INPAINTED)) == 2
    entry = run_json()["images"]["p1"]
    assert entry["shadow_free"] == {"note": "finished in an earlier run"}
    assert entry["nfe"] == NFE
    assert "2 of 2 images were finished before" in cli("--conf_path", conf).out


def test_keys_of_an_output_do_not_invalidate_the_other(shaded: Project, cli: Cli, negative: Negative) -> None:
    conf = shaded(1)
    cli("--conf_path", conf)
    removed, inpainted = stamps(SHADOW_FREE), stamps(INPAINTED)
    cli("--conf_path", conf, "--set", "schedule_jump_params.jump_n_sample=3")
    assert stamps(SHADOW_FREE) == removed and stamps(INPAINTED) != inpainted and len(negative.calls) == 1
    inpainted = stamps(INPAINTED)
    cli("--conf_path", conf, "--set", "schedule_jump_params.jump_n_sample=3", "relight.prior=diffusion")
    assert stamps(SHADOW_FREE) != removed and stamps(INPAINTED) == inpainted


@pytest.mark.parametrize("lost", ["shadow_matte", "shadow_field", "shadow_free"])
def test_lost_file_is_computed_again(shaded: Project, cli: Cli, negative: Negative, lost: str) -> None:
    conf = shaded(1)
    cli("--conf_path", conf)
    inpainted = stamps(INPAINTED)
    Path(f"log/run/{lost}/p0.png").unlink()
    cli("--conf_path", conf)
    assert Path(f"log/run/{lost}/p0.png").exists() and len(negative.calls) == 2
    assert stamps(INPAINTED) == inpainted
