"""Where the parts of a pipeline lie, which class reads its scheduler, and pipelines that edit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

import nelbo
from nelbo import NelboError
from nelbo.cli import main
from nelbo.diffusion import StaticThreshold
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler
from tests.formats import tiny

SCHEDULER = Path("scheduler") / "scheduler_config.json"


def change(file: Path, **fields) -> None:
    """None removes a field."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value != ""}))


def peer_and_mine(path: Path, steps: int = 5):
    """The same noise through both; the peer's own images in [-1, 1]."""
    peer = diffusers.DiffusionPipeline.from_pretrained(path)
    peer.set_progress_bar_config(disable=True)
    theirs = peer(
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=steps,
        output_type="np",
    ).images
    model = nelbo.load(path)
    ours = model.sample(
        2, nelbo.load_sampler(path, steps), generator=torch.Generator().manual_seed(0)
    )
    ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return ours, theirs


@pytest.mark.parametrize("named", ["EulerDiscreteScheduler", "DDIMScheduler", "Nonsense", ""])
def test_the_index_decides_the_class_of_the_scheduler(tmp_path, named):
    tiny.ddpm(tmp_path)
    change(tmp_path / SCHEDULER, _class_name=named, clip_sample=True)
    model, sampler = nelbo.load(tmp_path), nelbo.load_sampler(tmp_path, 5)
    assert model.threshold == StaticThreshold()
    assert sampler == DDPM(5, spacing="leading")
    ours, theirs = peer_and_mine(tmp_path)
    assert abs(ours - theirs).max() < 1e-4


def test_the_index_may_name_another_class_than_wrote_the_file(tmp_path):
    tiny.ddpm(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    change(tmp_path / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    assert index["scheduler"][1] == "DDPMScheduler"
    model = nelbo.load(tmp_path)
    assert isinstance(nelbo.load_sampler(tmp_path, 5), Euler)
    assert model.threshold is None  # which EulerDiscreteScheduler has no field for
    change(tmp_path / "model_index.json", scheduler=["diffusers", "ScoreSdeVeScheduler"])
    with pytest.raises(NelboError, match=r"model_index.json: scheduler is of class 'ScoreSdeVe"):
        nelbo.load(tmp_path)


def at_the_root(path: Path) -> None:
    """As the first checkpoints on the Hub have it: all files beside the index."""
    for part in ("unet", "scheduler"):
        for file in (path / part).iterdir():
            file.rename(path / file.name)
        (path / part).rmdir()


@pytest.mark.parametrize("make", [tiny.ddpm, tiny.ddim])
def test_parts_beside_the_index(tmp_path, make):
    make(tmp_path)
    in_folders = nelbo.load(tmp_path).sample(
        1, DDIM(3), x_T=torch.ones(1, 3, 8, 8), generator=torch.Generator()
    )
    at_the_root(tmp_path)
    diffusers.UNet2DModel.from_pretrained(tmp_path)  # as it is read by itself
    model = nelbo.load(tmp_path)
    again = model.sample(1, DDIM(3), x_T=torch.ones(1, 3, 8, 8), generator=torch.Generator())
    assert torch.equal(in_folders, again)
    ours, theirs = peer_and_mine(tmp_path)
    assert abs(ours - theirs).max() < 1e-4
    nelbo.UNet.from_pretrained(tmp_path)
    nelbo.save(model, tmp_path / "copy")
    assert (tmp_path / "copy" / "unet" / "config.json").is_file()


def test_a_part_that_is_nowhere_is_named_by_its_folder(tmp_path):
    tiny.ddpm(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    with pytest.raises(NelboError, match=r"unet holds no config\.json"):
        nelbo.load(tmp_path)


@pytest.mark.parametrize("kind", ["UniPCMultistep", "EulerAncestralDiscrete", "LCM"])
def test_a_pipeline_of_any_solver_is_evaluated_and_sampled(tmp_path, capsys, kind):
    tiny.ddpm(tmp_path)
    class_name = f"{kind}Scheduler"
    change(tmp_path / "model_index.json", scheduler=["diffusers", class_name])
    out = ["--out", str(tmp_path / "x.png"), "-n", "1", "--steps", "3"]
    main(["sample", str(tmp_path), "--sampler", "dpm_solver", *out])
    assert "nelbo has no" not in capsys.readouterr().err
    main(["sample", str(tmp_path), *out])
    [note] = [line for line in capsys.readouterr().err.splitlines() if "nelbo has no" in line]
    assert f"nelbo has no {class_name}, so DDIM walks the same chain in its place" in note
    bound = nelbo.load(tmp_path).elbo(torch.ones(1, 3, 8, 8), levels=2)
    assert bound.elbo.isfinite().all()


EDITING = {
    "StableDiffusionImg2ImgPipeline": diffusers.StableDiffusionImg2ImgPipeline,
    "StableDiffusionInpaintPipeline": diffusers.StableDiffusionInpaintPipeline,
}


@pytest.mark.parametrize("name", EDITING)
def test_pipelines_that_edit_are_stable_diffusion(tmp_path, name):
    pipeline = tiny.stable_diffusion(tmp_path)
    plain = tmp_path / "pipeline"
    EDITING[name](**pipeline.components, requires_safety_checker=False).save_pretrained(
        tmp_path / "editing"
    )
    assert (
        json.loads((tmp_path / "editing" / "model_index.json").read_text())["_class_name"] == name
    )
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = [
        nelbo.load(path).sample(1, nelbo.load_sampler(path, 3), prompt="cat", x_T=x_T)
        for path in (plain, tmp_path / "editing")
    ]
    assert torch.equal(*drawn)
    nelbo.save(nelbo.load(tmp_path / "editing"), tmp_path / "copy", sampler=DPMSolver(5))
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"


def test_a_network_that_is_told_the_mask_is_refused(tmp_path):
    pipeline = tiny.stable_diffusion(tmp_path)
    parts = {**pipeline.components, "unet": tiny.text_unet(in_channels=9)}
    diffusers.StableDiffusionInpaintPipeline(
        **parts, requires_safety_checker=False
    ).save_pretrained(tmp_path / "editing")
    with pytest.raises(NelboError, match=r"in_channels is 9.*reads a mask.*expected in_channels 4"):
        nelbo.load(tmp_path / "editing")
