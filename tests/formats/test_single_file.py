"""Single files: tiny models whose weights a conversion of this test's own has renamed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as theirs
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import nelbo
from nelbo import NelboError, NoiseSchedule
from nelbo.cli import main
from nelbo.formats import Pipeline
from nelbo.formats.single.autoencoder import rename_autoencoder
from nelbo.formats.single.text import rename_open_clip
from nelbo.formats.single.unet import rename_controlnet, rename_unet
from nelbo.networks import AutoencoderKL, ControlNet
from tests.commands.test_evidence import run_json
from tests.formats.tiny import SCHEDULER, randomise, seeded, text_config, tokenizer

SIDE, LAYERS, STAGES = 8, 2, 2
RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
Weights = dict[str, Tensor]


def exchanged(weights: Weights, table: list[tuple[str, str]]) -> Weights:
    """Weights whose names begin with the first of a pair, with the second in its place."""
    found = {}
    for name, weight in weights.items():
        new = next((b + name[len(a) :] for a, b in table if name.startswith(a)), name)
        found[new] = weight
    return found


def down_table(attends: tuple[bool, ...]) -> list[tuple[str, str]]:
    """Rows of the way down, layer by layer."""
    table, row = [("conv_in.", "input_blocks.0.0.")], 1
    for stage in range(STAGES):
        for layer in range(LAYERS):
            start = f"down_blocks.{stage}.resnets.{layer}."
            table += [(f"{start}{a}.", f"input_blocks.{row}.0.{b}.") for a, b in RESNET]
            table += [(f"down_blocks.{stage}.attentions.{layer}.", f"input_blocks.{row}.1.")]
            row += 1
        table.append((f"down_blocks.{stage}.downsamplers.0.conv.", f"input_blocks.{row}.0.op."))
        row += 1
    for old, new in (("resnets.0.", 0), ("resnets.1.", 2)):
        table += [(f"mid_block.{old}{a}.", f"middle_block.{new}.{b}.") for a, b in RESNET]
    table += [
        ("mid_block.attentions.0.", "middle_block.1."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
    ]
    return table


def ldm_unet(weights: Weights, attends: tuple[bool, ...]) -> Weights:
    """A UNet as the single file names it."""
    table, row = down_table(attends), 0
    for stage in range(STAGES):
        attention = attends[STAGES - 1 - stage]
        for layer in range(LAYERS + 1):
            start = f"up_blocks.{stage}.resnets.{layer}."
            table += [(f"{start}{a}.", f"output_blocks.{row}.0.{b}.") for a, b in RESNET]
            table += [(f"up_blocks.{stage}.attentions.{layer}.", f"output_blocks.{row}.1.")]
            row += 1
        up = f"output_blocks.{row - 1}.{1 + attention}.conv."
        table.append((f"up_blocks.{stage}.upsamplers.0.conv.", up))
    table += [("conv_norm_out.", "out.0."), ("conv_out.", "out.2.")]
    return exchanged(weights, table)


def ldm_controlnet(weights: Weights) -> Weights:
    table = down_table((True, True))
    blocks = sum(name.startswith("controlnet_cond_embedding.blocks") for name in weights) // 2
    table += [
        ("controlnet_cond_embedding.conv_in.", "input_hint_block.0."),
        ("controlnet_cond_embedding.conv_out.", f"input_hint_block.{2 * blocks + 2}."),
        ("controlnet_mid_block.", "middle_block_out.0."),
    ]
    for i in range(blocks):
        table.append((f"controlnet_cond_embedding.blocks.{i}.", f"input_hint_block.{2 * i + 2}."))
    for i in range(1 + STAGES * (LAYERS + 1) - 1):
        table.append((f"controlnet_down_blocks.{i}.", f"zero_convs.{i}.0."))
    return exchanged(weights, table)


def ldm_autoencoder(weights: Weights) -> Weights:
    found = {}
    for name, weight in weights.items():
        new = name.replace("conv_norm_out", "norm_out")
        new = new.replace("mid_block.resnets.0", "mid.block_1")
        new = new.replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("mid_block.attentions.0", "mid.attn_1")
        for i in range(STAGES):
            new = new.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
            new = new.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
            new = new.replace(f"up_blocks.{i}.resnets", f"up.{STAGES - 1 - i}.block")
            new = new.replace(f"up_blocks.{i}.upsamplers.0", f"up.{STAGES - 1 - i}.upsample")
        new = new.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in new:
            for a, b in (("group_norm", "norm"), ("to_out.0", "proj_out")):
                new = new.replace(a, b)
            for letter in "qkv":
                new = new.replace(f"to_{letter}", letter)
            if weight.ndim == 2:
                weight = weight[:, :, None, None]
        found[new] = weight
    return found


def open_clip(model: Any, projection: Tensor | None, spare_layers: int = 0) -> Weights:
    """A CLIP of transformers as OpenCLIP names it, with layers after it that are not used."""
    own = {name.removeprefix("text_model."): w for name, w in model.state_dict().items()}
    found = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "logit_scale": torch.tensor(1.0),
    }
    if projection is not None:
        found["text_projection"] = projection.T.contiguous()
    count = model.config.num_hidden_layers
    for i in range(count + spare_layers):
        block, start = f"transformer.resblocks.{i}.", f"encoder.layers.{min(i, count - 1)}."
        for kind in ("weight", "bias"):
            parts = [own[f"{start}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
            for a, b in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                found[f"{block}{b}.{kind}"] = own[f"{start}{a}.{kind}"].clone()
    return found


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: weight.clone() for name, weight in weights.items()}


@dataclass
class Single:
    """A pipeline of diffusers, and the single file of its weights."""

    pipeline: Any
    file: Path


def unet(context: int, **fields: Any) -> Any:
    return randomise(
        diffusers.UNet2DConditionModel(
            **{
                "sample_size": SIDE,
                "block_out_channels": (64, 128),
                "layers_per_block": LAYERS,
                "down_block_types": ("CrossAttnDownBlock2D",) * 2,
                "up_block_types": ("CrossAttnUpBlock2D",) * 2,
                "cross_attention_dim": context,
                "attention_head_dim": 8,
            }
            | fields
        )
    )


def autoencoder(scale: float) -> Any:
    network = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=scale,
    )
    return randomise(network, seed=1)


def clip(path: Path, width: int, seed: int, kind: Any, *, padding: str | None = None, **fields):
    tokens = tokenizer(path)
    if padding is not None:
        tokens.pad_token = padding
    shape = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 32}
    model = randomise(kind(text_config(tokens, **(shape | fields))), seed=seed)
    return tokens, model


def written(path: Path, pipeline: Any, text: Weights, attends: tuple[bool, ...], **more) -> Single:
    """The weights of a pipeline in one file, with its tokenizer and notes beside it."""
    pipeline.set_progress_bar_config(disable=True)
    weights = {
        **below("model.diffusion_model.", ldm_unet(pipeline.unet.state_dict(), attends)),
        **below("first_stage_model.", ldm_autoencoder(pipeline.vae.state_dict())),
        **text,
        **more,
    }
    file = path / "model.safetensors"
    save_file({name: w.contiguous() for name, w in weights.items()}, file)
    pipeline.tokenizer.save_pretrained(path / "tokenizer")
    file.with_suffix(".nelbo.json").write_text(json.dumps({"shape": [4, SIDE, SIDE]}))
    return Single(pipeline, file)


@seeded
def first(path: Path) -> Single:
    tokens, model = clip(path / "made", 768, 2, transformers.CLIPTextModel, hidden_act="quick_gelu")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(0.18215),
        unet=unet(768),
        text_encoder=model,
        tokenizer=tokens,
        scheduler=diffusers.DDIMScheduler(1000, **SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    names = {n.removeprefix("text_model."): w for n, w in model.state_dict().items()}
    text = below("cond_stage_model.transformer.text_model.", names)
    text["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(12)
    betas = diffusers.DDIMScheduler(1000, **SCHEDULER).betas
    return written(path, pipeline, text, (True, True), betas=betas)


@seeded
def second(path: Path) -> Single:
    options = {"hidden_act": "gelu", "num_hidden_layers": 1}
    tokens, model = clip(path / "made", 1024, 2, transformers.CLIPTextModel, **options)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(0.18215),
        unet=unet(1024, attention_head_dim=(1, 2), use_linear_projection=True),
        text_encoder=model,
        tokenizer=tokens,
        scheduler=diffusers.DDIMScheduler(1000, prediction_type="v_prediction", **SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    text = open_clip(model, torch.eye(1024), spare_layers=1)
    return written(path, pipeline, below("cond_stage_model.model.", text), (True, True))


@seeded
def xl(path: Path) -> Single:
    tokens, model = clip(path / "made", 64, 2, transformers.CLIPTextModel, hidden_act="quick_gelu")
    kind = transformers.CLIPTextModelWithProjection
    more = {"hidden_act": "gelu", "projection_dim": 48}
    other, wide = clip(path / "made", 128, 3, kind, **more)
    network = unet(
        192,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=48 + 6 * 256,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(0.13025),
        unet=network,
        text_encoder=model,
        text_encoder_2=wide,
        tokenizer=tokens,
        tokenizer_2=other,
        scheduler=diffusers.EulerDiscreteScheduler(
            1000,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    names = {n.removeprefix("text_model."): w for n, w in model.state_dict().items()}
    text = below("conditioner.embedders.0.transformer.text_model.", names)
    projected = open_clip(wide, wide.text_projection.weight)
    text |= below("conditioner.embedders.1.model.", projected)
    return written(path, pipeline, text, (False, True))


BUILDERS = {"first": first, "second": second, "xl": xl}
_built: dict[str, Single] = {}


@pytest.fixture(params=BUILDERS)
def single(request, tmp_path_factory) -> Single:
    return built(request.param, tmp_path_factory)


def built(name: str, tmp_path_factory) -> Single:
    if name not in _built:
        _built[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
    return _built[name]


pytestmark = pytest.mark.filterwarnings("ignore:.*does not state what its network predicts")


def drawn(model: nelbo.LatentDiffusion, path: Path, z: Tensor) -> Tensor:
    options = {"prompt": "red cat", "negative_prompt": "dog", "guidance": 3.0, "x_T": z}
    return model.sample(1, nelbo.load_sampler(path, 2), **options) / 2 + 0.5


def test_pictures_equal_those_of_the_pipeline(single):
    model = nelbo.load(single.file)
    z = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = single.pipeline(
        "red cat",
        negative_prompt="dog",
        guidance_scale=3.0,
        latents=z,
        num_inference_steps=2,
        output_type="pt",
        height=2 * SIDE,
        width=2 * SIDE,
    ).images
    torch.testing.assert_close(drawn(model, single.file, z), expected, rtol=0, atol=1e-4)


def test_export_makes_a_pipeline_that_diffusers_reads(single, tmp_path):
    main(["export", str(single.file), "--out", str(tmp_path / "out")])
    found = type(single.pipeline).from_pretrained(tmp_path / "out")
    for name in ("unet", "vae", "text_encoder"):
        own, before = (getattr(p, name).state_dict() for p in (found, single.pipeline))
        assert own.keys() == before.keys()
        assert all(torch.equal(own[key], before[key]) for key in own)
    z = torch.randn(1, 4, SIDE, SIDE)
    pictures = [drawn(nelbo.load(p), p, z) for p in (single.file, tmp_path / "out")]
    assert torch.equal(*pictures)


def same(own: Weights, other: Weights) -> None:
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name].view_as(own[name])) for name in own)


def test_names_are_those_of_the_conversion_of_diffusers(single):
    """Its functions for the layout, on the same file."""
    weights = load_file(single.file)
    config = dict(single.pipeline.unet.config)
    start = "model.diffusion_model."
    of_unet = {n[len(start) :]: w for n, w in weights.items() if n.startswith(start)}
    same(rename_unet(of_unet), theirs.convert_ldm_unet_checkpoint(dict(weights), config))
    start = "first_stage_model."
    of_vae = {n[len(start) :]: w for n, w in weights.items() if n.startswith(start)}
    config = dict(single.pipeline.vae.config)
    same(rename_autoencoder(of_vae), theirs.convert_ldm_vae_checkpoint(dict(weights), config))


def test_open_clip_as_diffusers_converts_it(tmp_path_factory):
    made = built("xl", tmp_path_factory)
    start = "conditioner.embedders.1.model."
    weights = load_file(made.file)
    own = {n[len(start) :]: w for n, w in weights.items() if n.startswith(start)}
    model = made.pipeline.text_encoder_2
    found = theirs.convert_open_clip_checkpoint(model, dict(weights), prefix=start)
    found = {n.removeprefix("text_model."): w for n, w in found.items()}
    same(rename_open_clip(own), found)


@seeded
def controlnet(path: Path) -> tuple[Any, Path]:
    network = diffusers.ControlNetModel.from_unet(
        unet(768), conditioning_embedding_out_channels=(4, 8, 8, 8)
    )
    randomise(network, seed=3)
    file = path / "control.safetensors"
    renamed = ldm_controlnet(network.state_dict())
    save_file({name: w.contiguous() for name, w in renamed.items()}, file)
    return network, file


def test_a_controlnet_alone(tmp_path):
    network, file = controlnet(tmp_path)
    found = nelbo.load(file)
    assert isinstance(found, ControlNet)
    same(dict(found.state_dict()), network.state_dict())
    config = dict(network.config)
    converted = theirs.convert_controlnet_checkpoint(load_file(file), config)
    same(rename_controlnet(load_file(file)), converted)


def test_a_controlnet_with_its_model(tmp_path, tmp_path_factory):
    made = built("first", tmp_path_factory)
    _, file = controlnet(tmp_path)
    both = load_file(made.file) | below("control_model.", load_file(file))
    save_file(both, tmp_path / "both.safetensors")
    (tmp_path / "both.nelbo.json").write_text(json.dumps({"shape": [4, SIDE, SIDE]}))
    made.pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = nelbo.load(tmp_path / "both.safetensors")
    assert model.control_shape == (3, 8 * SIDE, 8 * SIDE)
    x = model.sample(
        1,
        nelbo.load_sampler(tmp_path / "both.safetensors", 2),
        prompt="cat",
        control=torch.rand(1, 3, 8 * SIDE, 8 * SIDE),
    )
    assert x.isfinite().all()


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_autoencoder_alone(prefix, tmp_path):
    network, file = autoencoder(0.18215), tmp_path / "vae.safetensors"
    save_file(below(prefix, ldm_autoencoder(network.state_dict())), file)
    found = nelbo.load(file)
    assert isinstance(found, AutoencoderKL)
    with pytest.raises(NelboError, match="holds the network AutoencoderKL alone"):
        nelbo.load_sampler(file)
    same(dict(found.state_dict()), network.state_dict())
    assert found.config.scaling_factor == 0.18215


@pytest.fixture
def pictures(tmp_path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        values = random.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


def test_the_commands(pictures, tmp_path, tmp_path_factory, capsys):
    file = built("xl", tmp_path_factory).file
    on = ["--data", pictures, "--split", "all", "--levels", 2]
    found = run_json(capsys, "evaluate", file, *on)
    assert np.isfinite(found["bits_per_dim"]["total"]["mean"])
    asked = ["--prompt", "red cat", "--steps", "2", "-n", "1"]
    main(["sample", str(file), *asked, "--out", str(tmp_path / "grid.png")])
    assert (tmp_path / "grid.png").is_file()


def test_classify_and_compare(pictures, tmp_path, tmp_path_factory, capsys):
    file = built("first", tmp_path_factory).file
    (tmp_path / "prompts.txt").write_text("red cat\ndog")
    few = ["--split", "all", "--images", 2]
    asked = ["--prompt-file", tmp_path / "prompts.txt", "--draws", 2]
    found = run_json(capsys, "classify", file, "--data", pictures, *few, *asked)
    assert found["images"] == 2
    runs = ["--runs", file, file, "--levels", 1]
    assert run_json(capsys, "compare", pictures, *runs, *few)["difference"] == 0


def test_what_a_file_states_of_itself(tmp_path, tmp_path_factory):
    made = built("second", tmp_path_factory)
    with pytest.warns(UserWarning, match="does not state what its network predicts"):
        assert nelbo.load(made.file).prior.prediction == "v_prediction"
    metadata = {"modelspec.prediction_type": "epsilon", "modelspec.resolution": "64x64"}
    file = tmp_path / "stated.safetensors"
    save_file(load_file(made.file), file, metadata=metadata)
    made.pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = nelbo.load(file)
    assert (model.prior.prediction, model.prior.shape) == ("epsilon", (4, 8, 8))
    file.with_suffix(".nelbo.json").write_text('{"prediction": "v_prediction"}')
    assert nelbo.load(file).prior.prediction == "v_prediction"
    file.with_suffix(".nelbo.json").write_text('{"prediction": "v-prediction"}')
    with pytest.raises(NelboError, match=r"prediction is 'v-prediction', expected one of epsilon"):
        nelbo.load(file)
    file.with_suffix(".nelbo.json").write_text('{"decoder_scale": "wide"}')
    with pytest.raises(nelbo.NelboError, match=r"stated\.nelbo\.json: decoder_scale is 'wide'"):
        nelbo.load(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_betas_of_a_file_may_be_rounded_with_its_weights(tmp_path, tmp_path_factory, dtype):
    weights = load_file(built("first", tmp_path_factory).file)
    usual = NoiseSchedule.scaled_linear(1000)
    for schedule, expected in ((usual, usual), (NoiseSchedule.linear(1000), None)):
        file = tmp_path / "model.safetensors"
        save_file(weights | {"betas": schedule.betas[1:].to(dtype)}, file)
        found = Pipeline.open(file).schedule
        betas = schedule.betas[1:].to(dtype).double() if expected is None else expected.betas[1:]
        assert torch.equal(found.betas[1:], betas)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"lora_unet_down.weight": torch.zeros(1)}, "holds a LoRA"),
        ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(1)}, "holds a LoRA"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "the network of Flux"),
        ({"model.diffusion_model.x": torch.zeros(1)}, "a UNet without text encoders"),
        ({"something": torch.zeros(1)}, "of no layout that nelbo knows"),
        ({"x": torch.zeros(4).to(torch.float8_e4m3fn)}, r"quantised \(F8_E4M3\)"),
        ({"decoder.up.0.block.0.norm1.weight": torch.zeros(1)}, "taken for a AutoencoderKL"),
    ],
)
def test_mistakes(weights, match, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    with pytest.raises(NelboError, match=match):
        nelbo.load(file)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("model.ckpt", "is a pickle"),
        ("model.gguf", "a quantised format"),
        ("model.safetensors", "not a complete safetensors file"),
    ],
)
def test_files_that_are_not_read(name, match, tmp_path):
    (tmp_path / name).write_bytes(b"none")
    with pytest.raises(NelboError, match=match):
        nelbo.load(tmp_path / name)


def test_a_file_that_is_missing(tmp_path):
    (tmp_path / "dreams_v2.safetensors").touch()
    message = r"there is no file .*dreams_v3\.safetensors \(did you mean dreams_v2\.safetensors\?\)"
    with pytest.raises(NelboError, match=message):
        nelbo.load(tmp_path / "dreams_v3.safetensors")


def test_a_file_without_a_tokenizer_and_one_that_sees_a_mask(tmp_path, tmp_path_factory):
    made = built("first", tmp_path_factory)
    weights, file = load_file(made.file), tmp_path / "model.safetensors"
    save_file(weights, file)
    with pytest.raises(NelboError, match="copy the folder tokenizer/"):
        nelbo.load(file)
    made.pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    first_layer = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(weights | {first_layer: weights[first_layer].repeat(1, 2, 1, 1)}, file)
    with pytest.raises(NelboError, match="reads 8 channels for the 4"):
        nelbo.load(file)
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, file)
    with pytest.raises(NelboError, match=r"1 tensors missing: conv_out\.bias"):
        nelbo.load(file)
