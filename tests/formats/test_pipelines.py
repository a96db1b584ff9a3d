"""Whole pipelines that diffusers wrote: nelbo draws the same pictures, and writes them back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

import nelbo
from nelbo import Diffusion, LatentDiffusion, NelboError
from nelbo.diffusion.own_coordinates import EpsilonAt
from nelbo.networks.control import Strength
from nelbo.samplers import DDIM, DPMSolver, Euler, Heun
from tests.formats import tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels"),
    # Of a solver of the peer.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    path = tmp_path_factory.mktemp("stable")
    return tiny.stable_diffusion(path), path / "pipeline"


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    path = tmp_path_factory.mktemp("controlled")
    return tiny.stable_diffusion(path, control=True), path / "pipeline"


def latents(n: int) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def pictures(ours: torch.Tensor) -> np.ndarray:
    return (ours / 2 + 0.5).permute(0, 2, 3, 1).numpy()


def assert_same(ours: torch.Tensor, theirs: np.ndarray) -> None:
    assert theirs.std() > 0.02  # a picture
    assert ((theirs > 0) & (theirs < 1)).mean() > 0.2  # that is not all clipped
    np.testing.assert_allclose(pictures(ours), theirs, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("guidance", "negative"), [(1.0, None), (7.5, None), (4.0, "dog"), (4.0, ["a", "dog red"])]
)
def test_stable_diffusion(stable, guidance, negative):
    peer, path = stable
    prompts, x_T = ["a red cat", "dog"], latents(2)
    theirs = peer(
        prompts,
        negative_prompt=[negative] * 2 if isinstance(negative, str) else negative,
        guidance_scale=guidance,
        num_inference_steps=8,
        latents=x_T.clone(),
        output_type="np",
    ).images
    model = nelbo.load(path)
    assert isinstance(model, LatentDiffusion)
    sampler = nelbo.load_sampler(path, 8)
    assert sampler == DDIM(
        8, spacing="leading", steps_offset=1, set_alpha_to_one=False, even_stride=True
    )
    ours = model.sample(
        2, sampler, prompt=prompts, negative_prompt=negative, guidance=guidance, x_T=x_T
    )
    assert_same(ours, theirs)
    other = model.sample(2, sampler, prompt="dog", guidance=guidance, x_T=x_T)
    assert (ours[0] - other[0]).abs().max() > 100 * TOLERANCE  # the prompt counts


# What diffusers does in walks of fewer steps.
PEER = {"lower_orders_below": 15}


@pytest.mark.parametrize(
    ("kind", "options", "sampler"),
    [
        ("DPMSolverMultistep", {}, DPMSolver(6, noise_levels="spaced", **PEER)),
        (
            "DPMSolverMultistep",
            {"use_karras_sigmas": True},
            DPMSolver(6, noise_levels="karras", **PEER),
        ),
        ("EulerDiscrete", {}, Euler(6, noise_levels="spaced")),
        ("HeunDiscrete", {"use_karras_sigmas": True}, Heun(6, noise_levels="karras")),
    ],
)
def test_stable_diffusion_with_solvers(tmp_path, kind, options, sampler):
    # With "leading" the start of all of them is a draw from the prior.
    scheduler = getattr(diffusers, f"{kind}Scheduler")(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        **options,
    )
    peer = tiny.stable_diffusion(tmp_path, scheduler=scheduler)
    x_T = latents(1)
    theirs = peer(
        ["a cat"],
        guidance_scale=4.0,
        num_inference_steps=6,
        latents=x_T.clone(),
        output_type="np",
    ).images
    path = tmp_path / "pipeline"
    read = nelbo.load_sampler(path, 6)
    assert read == replace(sampler, spacing="leading", steps_offset=1)
    ours = nelbo.load(path).sample(1, read, prompt="a cat", guidance=4.0, x_T=x_T)
    assert_same(ours, theirs)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_controlnet(controlled, guidance):
    peer, path = controlled
    generator = torch.Generator().manual_seed(3)
    control = torch.rand(2, 3, 16, 16, generator=generator)
    x_T = latents(2)
    theirs = peer(
        ["red", "a cat"],
        image=control,
        negative_prompt=["dog"] * 2 if guidance > 1 else None,
        guidance_scale=guidance,
        num_inference_steps=6,
        latents=x_T.clone(),
        output_type="np",
    ).images
    model = nelbo.load(path)
    settings = {
        "prompt": ["red", "a cat"],
        "negative_prompt": "dog" if guidance > 1 else None,
        "guidance": guidance,
        "x_T": x_T,
    }
    sampler = nelbo.load_sampler(path, 6)
    ours = model.sample(2, sampler, control=control, **settings)
    assert_same(ours, theirs)
    same_control = model.sample(2, sampler, control=control[:1], **settings)
    torch.testing.assert_close(same_control[0], ours[0], atol=1e-5, rtol=0)
    assert (same_control[1] - ours[1]).abs().max() > 10 * TOLERANCE  # the control counts


def test_guidance_is_one_call_a_step(stable):
    model = nelbo.load(stable[1])
    calls = []
    model.prior.network.register_forward_hook(lambda *_: calls.append(1))
    model.sample(1, DDIM(3), prompt="cat", guidance=3.0)
    assert len(calls) == 3


def test_unconditional_latents(tmp_path):
    peer = tiny.unconditional(tmp_path)
    theirs = peer(
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=8,
        output_type="np",
    ).images
    model = nelbo.load(tmp_path)
    assert model.text is None
    assert model.scale == 0.7
    ours = model.sample(2, nelbo.load_sampler(tmp_path, 8), x_T=latents(2))
    assert_same(ours, theirs)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_pipeline(tmp_path, eta, clip, spacing):
    peer = tiny.ddim(tmp_path, clip_sample=clip, timestep_spacing=spacing)
    theirs = peer(
        2,
        generator=torch.Generator().manual_seed(0),
        eta=eta,
        num_inference_steps=10,
        output_type="np",
    ).images
    model = nelbo.load(tmp_path)
    read = nelbo.load_sampler(tmp_path, 10)
    sampler = DDIM(10, eta, spacing=spacing, even_stride=True)
    assert read == DDIM(10, spacing=spacing, even_stride=True)
    ours = model.sample(2, sampler, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(pictures(ours).clip(0, 1), theirs, atol=TOLERANCE)


def test_ddpm_pipeline(tmp_path):
    peer = tiny.ddpm(tmp_path)
    theirs = peer(
        2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=20,
        output_type="np",
    ).images
    model = nelbo.load(tmp_path)
    ours = model.sample(2, nelbo.load_sampler(tmp_path), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(pictures(ours).clip(0, 1), theirs, atol=TOLERANCE)


def tensors(pipeline) -> dict[str, torch.Tensor]:
    parts = {k: v for k, v in pipeline.components.items() if isinstance(v, torch.nn.Module)}
    return {f"{k}.{name}": x for k, v in parts.items() for name, x in v.state_dict().items()}


@pytest.mark.parametrize("kind", ["stable", "controlled", "unconditional", "ddim", "ddpm"])
def test_round_trip_leaves_every_tensor_and_the_pictures(kind, tmp_path, request):
    if kind in ("stable", "controlled"):
        peer, path = request.getfixturevalue(kind)
    else:
        path = tmp_path / "theirs"
        peer = getattr(tiny, kind)(path)
    model, sampler = nelbo.load(path), nelbo.load_sampler(path, 5)
    nelbo.save(model, tmp_path / "ours", sampler=sampler)
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(back) is type(peer)
    before, after = tensors(peer), tensors(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("prediction_type", "steps_offset", "timestep_spacing", "clip_sample"):
        assert back.scheduler.config[name] == peer.scheduler.config[name]
    torch.testing.assert_close(back.scheduler.betas, peer.scheduler.betas)
    if "tokenizer" in peer.components:
        assert back.tokenizer("a red cat")["input_ids"] == peer.tokenizer("a red cat")["input_ids"]
    assert nelbo.load_sampler(tmp_path / "ours", 5) == sampler
    again = nelbo.load(tmp_path / "ours")
    kinds = {"prompt": "cat"} if kind in ("stable", "controlled") else {}
    if kind == "controlled":
        kinds["control"] = torch.rand(1, 3, 16, 16)
    first, second = (
        m.sample(1, DDIM(2), generator=torch.Generator().manual_seed(0), **kinds)
        for m in (model, again)
    )
    assert torch.equal(first, second)


def test_scales_are_kept(controlled, tmp_path):
    model = nelbo.load(controlled[1])
    model.scale = 0.25
    model.prior.network = model.prior.network.acting([Strength(0.5)])
    nelbo.save(model, tmp_path)
    again = nelbo.load(tmp_path)
    assert (again.scale, again.prior.network.strengths) == (0.25, (Strength(0.5),))


def test_old_settings_of_stable_diffusion_are_mended_as_in_diffusers(tmp_path):
    tiny.stable_diffusion(tmp_path)
    file = tmp_path / "pipeline" / "scheduler" / "scheduler_config.json"
    old = json.loads(file.read_text()) | {"steps_offset": 0, "clip_sample": True}
    file.write_text(json.dumps(old))
    assert nelbo.load_sampler(tmp_path / "pipeline").steps_offset == 1
    assert nelbo.load(tmp_path / "pipeline").prior.threshold is None


@pytest.mark.parametrize("version", ["0.2.4", "0.8.1", "0.9.0.dev0", "0.10.2", None])
def test_early_pipelines_have_latents_of_64_as_in_diffusers(tmp_path, version):
    tiny.stable_diffusion(tmp_path)
    folder = tmp_path / "pipeline"
    file = folder / "unet" / "config.json"
    written = json.loads(file.read_text()) | {"_diffusers_version": version}
    file.write_text(json.dumps({name: v for name, v in written.items() if v is not None}))
    peer = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    side = peer.unet.config.sample_size
    assert nelbo.load(folder).prior.shape == (4, side, side)


def test_levels_are_assumed_once_and_for_pixels_only(tmp_path, stable, recwarn):
    tiny.ddim(tmp_path)
    recwarn.clear()
    with pytest.warns(UserWarning, match="assuming 256") as notes:
        nelbo.load(tmp_path)
    assert len(notes) == 1
    recwarn.clear()
    nelbo.load(stable[1])
    assert not [w for w in recwarn if "levels" in str(w.message)]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "MochiPipeline"}, "_class_name is 'MochiPipeline'"),
        ("model_index.json", {"_class_name": None}, "_class_name is None"),
        ("model_index.json", {"vae": ["diffusers", "VQModel"]}, "vae is of class 'VQModel'"),
        ("model_index.json", {"vae": [None, None]}, "there is no 'vae'"),
        ("model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "unet is of class"),
        ("model_index.json", {"text_encoder": ["transformers", "T5Model"]}, "'T5Model'"),
        ("model_index.json", {"../unet": ["diffusers", "UNet2DModel"]}, "'../unet' is no plain"),
        ("model_index.json", {"/etc": ["diffusers", "UNet2DModel"]}, "'/etc' is no plain name"),
        ("model_index.json", {"unet": ["diffusers"]}, "unet is ['diffusers']"),
        ("vae/config.json", {"_class_name": "VQModel"}, "VQModel"),
        ("vae/config.json", {"latent_channels": 3}, "wrong shape"),
        ("unet/config.json", {"sample_size": None}, "shape is None"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "flow_prediction"},
            "prediction_type is 'flow_prediction'",
        ),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "'hidden_size': found 'wide'"),
    ],
)
def test_mistakes_name_the_file(stable, tmp_path, file, changes, message):
    copy = tmp_path / "copy"
    shutil.copytree(stable[1], copy)
    content = json.loads((copy / file).read_text()) | changes
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(NelboError) as error:
        nelbo.load(copy)
    assert message in str(error.value)
    assert str(copy) in str(error.value)


def test_parts_without_use_are_ignored(stable, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stable[1], copy)
    content = json.loads((copy / "model_index.json").read_text()) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": [None, None],
    }
    (copy / "model_index.json").write_text(json.dumps(content))
    assert isinstance(nelbo.load(copy), LatentDiffusion)


def test_pickled_or_missing_text_encoder(stable, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stable[1], copy)
    weights = copy / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(NelboError, match=r"pytorch_model\.bin is a pickle"):
        nelbo.load(copy)
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(NelboError, match="text_encoder"):
        nelbo.load(copy)


def test_what_cannot_be_saved(stable, tmp_path):
    model = nelbo.load(stable[1])
    wordless = LatentDiffusion(model.autoencoder, model.prior)
    with pytest.raises(NelboError, match="without a text encoder"):
        nelbo.save(wordless, tmp_path / "x")
    short = LatentDiffusion(model.autoencoder, model.prior.respace([1, 9]), text=model.text)
    with pytest.raises(NelboError, match="respaced"):
        nelbo.save(short, tmp_path / "x")
    with pytest.raises(NelboError, match="UNet2DConditionModel"):
        nelbo.save(model.prior, tmp_path / "x")
    prior = model.prior
    own = EpsilonAt(lambda s: 1.0, lambda s: s, (0.01, 10.0))
    options = {"data": prior.data, "shape": prior.shape, "variance": prior.variance}
    flow = Diffusion(prior.network, prior.schedule, prediction=own, **options)
    with pytest.raises(NelboError, match="prediction='own_epsilon' cannot be saved"):
        nelbo.save(LatentDiffusion(model.autoencoder, flow, text=model.text), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").write_text("")
    with pytest.raises(NelboError, match="x is a file, expected the name of a directory"):
        nelbo.save(model, tmp_path / "x")
