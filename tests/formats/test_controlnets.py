"""Control as diffusers has it: part of the way, guess mode, several at once; and on disk."""

from __future__ import annotations

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from PIL import Image

import nelbo
from nelbo import Control
from nelbo.base.errors import NelboError
from nelbo.editing import ImageToImage, Inpainting
from nelbo.networks import ControlNet
from nelbo.report.model_card import measured_sections, model_card
from nelbo.samplers import DDIM, DDPM, DPMSolver, Euler, Heun
from tests.formats import tiny
from tests.formats.test_pipelines import assert_same, latents

STEPS = 4
# Its levels are those that the way of the control is counted in.
SAMPLER = DDIM(STEPS, spacing="trailing", set_alpha_to_one=False)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    path = tmp_path_factory.mktemp("controlled")
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing="trailing", **tiny.SCHEDULER)
    return tiny.stable_diffusion(path, control=True, scheduler=scheduler), path / "pipeline"


@pytest.fixture(scope="module")
def model(controlled):
    return nelbo.load(controlled[1])


@pytest.fixture(scope="module")
def several(controlled, tmp_path_factory):
    """A pipeline of two ControlNets, by diffusers."""
    peer, _ = controlled
    second = diffusers.ControlNetModel.from_unet(
        peer.unet, conditioning_embedding_out_channels=(4, 8)
    )
    tiny.randomise(second, seed=5)
    parts = {**peer.components, "controlnet": MultiControlNetModel([peer.controlnet, second])}
    both = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    path = tmp_path_factory.mktemp("several")
    both.save_pretrained(path)
    both.set_progress_bar_config(disable=True)
    return both, path


def controls(seed: int = 3) -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def drawn(peer, images, **options):
    options = {"guidance_scale": 4.0, **options}
    return peer(
        ["red", "a cat"],
        image=images,
        num_inference_steps=STEPS,
        latents=latents(2),
        output_type="np",
        **options,
    ).images


def ours(model, control, **options):
    options = {"prompt": ["red", "a cat"], "guidance": 4.0, "x_T": latents(2), **options}
    return model.sample(2, SAMPLER, control=control, **options)


def test_a_part_of_the_way(controlled, model):
    peer, _ = controlled
    theirs = drawn(peer, controls(), control_guidance_start=0.25, control_guidance_end=0.75)
    assert_same(ours(model, Control(controls(), start=0.25, end=0.75)), theirs)


def test_guess_mode(controlled, model):
    peer, _ = controlled
    theirs = drawn(peer, controls(), guess_mode=True, controlnet_conditioning_scale=0.8)
    assert_same(ours(model, Control(controls(), 0.8, guess=True)), theirs)


def test_guess_mode_needs_no_prompt(controlled, model):
    peer, _ = controlled
    theirs = peer(
        ["", ""],
        image=controls(),
        guess_mode=True,
        guidance_scale=3.0,
        num_inference_steps=STEPS,
        latents=latents(2),
        output_type="np",
    ).images
    found = ours(model, Control(controls(), guess=True), prompt=None, guidance=3.0)
    assert_same(found, theirs)
    with pytest.raises(NelboError, match="needs a prompt"):
        ours(model, controls(), prompt=None)


def test_several_at_once(several, tmp_path):
    peer, path = several
    images = [controls(), controls(4)]
    theirs = drawn(
        peer,
        images,
        controlnet_conditioning_scale=[0.7, 1.3],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )
    model = nelbo.load(path)
    assert model.control_shape == (6, 16, 16)
    asked = [Control(images[0], 0.7, end=0.5), Control(images[1], 1.3, start=0.25)]
    found = ours(model, asked)
    assert_same(found, theirs)
    nelbo.save(model, tmp_path)
    again = diffusers.StableDiffusionControlNetPipeline.from_pretrained(tmp_path)
    assert isinstance(again.controlnet, MultiControlNetModel)
    assert torch.equal(ours(nelbo.load(tmp_path), asked), found)
    with pytest.raises(NelboError, match="given for 1 ControlNets, expected one for each of 2"):
        ours(model, controls())


@pytest.mark.parametrize("guess", [False, True], ids=["guided", "guess"])
def test_two_text_encoders(guess, tmp_path):
    base = tiny.stable_diffusion_xl(tmp_path)
    net = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 8))
    tiny.randomise(net, seed=3)
    base.scheduler = diffusers.DDIMScheduler(1000, timestep_spacing="trailing", **tiny.SCHEDULER)
    peer = diffusers.StableDiffusionXLControlNetPipeline(
        **{**base.components, "controlnet": net}, add_watermarker=False
    )
    peer.save_pretrained(tmp_path / "theirs")
    peer.set_progress_bar_config(disable=True)
    model = nelbo.load(tmp_path / "theirs")
    control = Control(controls(), 0.8, guess=guess)
    found = ours(model, control)
    scale = {"controlnet_conditioning_scale": 0.8}
    assert_same(found, drawn(peer, controls(), guess_mode=guess, **scale))
    assert not torch.allclose(found, ours(model, None), atol=1e-2)
    nelbo.save(model, tmp_path / "ours", sampler=SAMPLER)
    assert torch.equal(ours(nelbo.load(tmp_path / "ours"), control), found)
    again = diffusers.StableDiffusionXLControlNetPipeline.from_pretrained(
        tmp_path / "ours", add_watermarker=False
    )
    again.set_progress_bar_config(disable=True)
    assert_same(found, drawn(again, controls(), guess_mode=guess, **scale))


def test_a_published_controlnet_joins_a_base(controlled, several, tmp_path):
    """A folder of a ControlNetModel alone, as they are published, on the pipeline of a base."""
    _, path = several
    plain = tmp_path / "plain"
    tiny.stable_diffusion(plain)
    nets = [ControlNet.from_pretrained(path / name) for name in ("controlnet", "controlnet_1")]
    base = nelbo.load(plain / "pipeline")
    joined = base.with_controlnets(*nets)
    whole = nelbo.load(path)
    asked = [controls(), controls(4)]
    assert torch.equal(ours(joined, asked), ours(whole, asked))
    one_more = base.with_controlnets(nets[0]).with_controlnets(nets[1])
    assert torch.equal(ours(one_more, asked), ours(whole, asked))
    with pytest.raises(NelboError, match="without a ControlNet"):
        ours(base, controls())


@pytest.mark.parametrize("kind", ["ddpm", "unconditional"])
def test_models_without_text(kind, tmp_path):
    """diffusers has no pipeline of them with a ControlNet, and reads the base."""
    peer = getattr(tiny, kind)(tmp_path / "base")
    base = nelbo.load(tmp_path / "base")
    widths = (4,) if kind == "ddpm" else (4, 8)
    torch.manual_seed(0)
    unet = base.chain.network
    net = ControlNet.from_unet(unet, conditioning_embedding_out_channels=widths)
    tiny.randomise(net)
    model = base.with_controlnets(net)
    control = torch.rand(2, *model.control_shape)
    options = {"x_T": torch.randn(2, *base.chain.shape), "control": Control(control, 0.5)}
    sampler = DDIM(4)
    found = model.sample(2, sampler, **options)
    assert (found - base.sample(2, sampler, x_T=options["x_T"])).abs().max() > 0.01
    nelbo.save(model, tmp_path / "saved")
    again = nelbo.load(tmp_path / "saved")
    assert torch.equal(again.sample(2, sampler, **options), found)
    assert again.control_shape == model.control_shape
    read = type(peer).from_pretrained(tmp_path / "saved")
    for name, weight in read.unet.state_dict().items():
        assert torch.equal(weight, peer.unet.state_dict()[name])
    notes = json.loads((tmp_path / "saved" / "nelbo.json").read_text())
    assert notes["controlnets"] == 1


@pytest.mark.parametrize(
    ("sampler", "prompt"),
    [
        (DDPM(2), None),
        (DDIM(2, eta=0.5), "red"),
        (Euler(4), None),
        (Heun(4), "red"),
        (DPMSolver(4), None),
    ],
)
def test_every_sampler(model, sampler, prompt):
    """A control of scale zero is none, and one that acts changes the picture, as its part does."""

    def draw(control):
        generator = torch.Generator().manual_seed(0)
        options = {"prompt": prompt, "x_T": latents(1), "generator": generator}
        return model.sample(1, sampler, control=control, **options)

    image = controls()[:1]
    base, whole = draw(None), draw(image)
    assert torch.equal(draw(Control(image, 0.0)), base)
    differ = [(draw(Control(image, end=end)) - whole).abs().max() for end in (0.1, 1.0)]
    assert differ[0] > 1e-4
    assert differ[1] == 0
    assert (whole - base).abs().max() > 0.01


def test_edits(model):
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12, 4:12] = True
    edits = [(ImageToImage(DDIM(4), 0.75), None), (Inpainting(mask, DDPM(4), 1, 1), "red")]
    for edit, prompt in edits:

        def edited(control, edit=edit, prompt=prompt):
            generator = torch.Generator().manual_seed(0)
            return model.edit(x, edit, prompt=prompt, control=control, generator=generator)

        assert (edited(controls()[:1]) - edited(None)).abs().max() > 0.001
        assert torch.equal(edited(Control(controls()[:1], 0.0)), edited(None))


def test_a_control_of_another_size_is_cut_and_resized(model):
    wide = torch.rand(1, 3, 32, 64)
    with pytest.warns(UserWarning, match="the control is 32×64, the model takes 16×16"):
        found = ours(model, wide)
    channels = [Image.fromarray(each.numpy()) for each in wide[0, :, :, 16:48]]
    smaller = [np.asarray(each.resize((16, 16), Image.Resampling.BILINEAR)) for each in channels]
    expected = ours(model, torch.from_numpy(np.stack(smaller))[None])
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (torch.zeros(2, 1, 16, 16), "has 1 channels, the ControlNet reads 3"),
        (torch.zeros(3, 3, 16, 16), "a batch of 3, expected 2 or 1"),
        (torch.zeros(3, 16, 16), r"expected a tensor \(n, C, H, W\)"),
        ([torch.zeros(2, 3, 16, 16)] * 2, "given for 2 ControlNets, expected one for each of 1"),
        (torch.zeros(1, 3, 0, 16), r"control is \(1, 3, 0, 16\), expected a tensor"),
        (torch.full((1, 3, 16, 16), torch.nan), "control has values that are not finite"),
        (torch.full((1, 3, 16, 16), 255.0), "values from 255 to 255, expected .* divide pixel"),
        (torch.full((1, 3, 16, 16), 255).byte(), "values from 255 to 255, expected"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "of type torch.uint8, .* 0..255 by 255"),
    ],
)
def test_mistakes(model, control, message):
    with pytest.raises(NelboError, match=message):
        ours(model, control)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": float("nan")}, "finite"),
        ({"start": 0.5, "end": 0.5}, "start < end"),
        ({"end": 1.5}, "end <= 1"),
        ({"scale": "strong"}, "scale must be a number, got str 'strong'"),
        ({"start": None}, "start must be a number, got None"),
        ({"end": torch.ones(2)}, "end must be a number"),
    ],
)
def test_strengths_that_make_no_sense(fields, message):
    with pytest.raises(NelboError, match=message):
        Control(torch.zeros(1, 3, 4, 4), **fields)


def test_the_card_gives_each_of_several_its_control(several):
    peer, path = several
    model, kind = nelbo.load(path), "StableDiffusionControlNetPipeline"
    model.decoder_scale = 0.1  # else it has no bound to read
    card = model_card("two", model, {}, {}, None, pipeline=kind, prompt="red")
    (line,) = {line for line in card.splitlines() if line.startswith("control = ")}
    made = {"torch": torch}
    exec(line, made)
    control = made["control"]
    assert model.sample(1, DDIM(1), prompt="red", control=control).shape == (1, 3, 16, 16)
    peer("red", control, num_inference_steps=1, output_type="np")
    condition = model.condition_on(["red"])
    condition = replace(condition, control=torch.cat(control, 1).expand(1, -1, -1, -1))
    assert "control=torch.cat(control, 1).expand(len(images), -1, -1, -1)" in card
    model.prior.score_matching(*[torch.zeros(1, *model.prior.shape)] * 2, 2, condition)
    assert "--control sketch.png --control sketch-2.png --prompt red" in card


def test_the_card_names_the_control_and_what_it_explains(model):
    notes = {"trained": {"steps": 5}, "control": "/data/edges", "base": "/runs/icons"}
    card = model_card("one", model, notes, {}, None, pipeline="X")
    assert "Its ControlNet follows the control edges; its base, icons, stays as it was." in card
    term = {"mean": 1.0, "standard_error": 0.1}
    rows = (
        ("nothing", "control", 9.0),
        ("text", "text and control", 8.0),
        ("nothing", "text", 7.0),
        ("text", "another image's control", -3.0),
    )
    explained = [
        {"without": a, "given": b, "bits": bits, "standard_error": 0.02} for a, b, bits in rows
    ]
    evaluation = {
        "test": {"bits_per_dim": {"total": term}, "examples": 4},
        "control": {"images": 4, "explained": explained},
    }
    evidence = measured_sections(model, evaluation)["Evidence"]
    assert (
        "The control explains 8.0 ± 2×10⁻² bits an image beside the text, that of another image "
        "−3.0 ± 2×10⁻² (4 images, paired on the same noise)." in evidence
    )


def test_a_part_without_a_level(model):
    with pytest.raises(NelboError, match="no level of the chain of 1000"):
        ours(model, Control(controls(), start=0.4001, end=0.4004))
