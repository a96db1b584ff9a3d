"""A prior under a frozen text encoder: captions embedded once, the encoder left as it is."""

from __future__ import annotations

import pytest
import torch
import transformers

import nelbo
from nelbo import NelboError
from nelbo.diffusion.objectives import Objective
from nelbo.text import TextEncoder
from nelbo.training.kinds.latent.latents import encode_data
from nelbo.training.kinds.latent.objective import PriorObjective
from tests.formats import tiny
from tests.training.test_latents import pictures, take_steps, text_model

SEED = 3


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@pytest.mark.parametrize("objective", ["simple", "bound"])
def test_it_is_the_objective_of_a_text_encoder_that_learns_nothing(objective):
    """The same terms, whether each batch is read anew or all captions were read before."""
    model, (data, captions) = text_model().eval(), pictures()
    learns = PriorObjective(model, condition_dropout=0.5)
    expected = learns(
        encode_data(model, data, captions), objective=Objective(objective), generator=seeded()
    )
    model.text.requires_grad_(False)
    assert model.text.frozen
    latents = encode_data(model, data, captions)
    assert latents.tokens is None
    assert len(latents.captions.text) == 1 + len(set(captions))
    reads = PriorObjective(model, condition_dropout=0.5)
    found = reads(latents, objective=Objective(objective), generator=seeded())
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.nelbo, expected.nelbo)
    some = torch.tensor([5, 2, 5])
    taken = latents.take(some)
    assert taken.captions is latents.captions
    told = taken.captions[taken.caption_index].text
    assert torch.equal(told, model.condition_on([captions[i] for i in some.tolist()]).text)


def test_the_prior_learns_and_the_text_encoder_is_no_part_of_it():
    model, (data, captions) = text_model(), pictures()
    model.text.requires_grad_(False)
    module = PriorObjective(model)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"prior"}
    before = {name: value.clone() for name, value in model.text.state_dict().items()}
    history = take_steps(module, encode_data(model, data, captions), 25, 3e-3)
    assert sum(t.loss.item() for t in history[-5:]) < sum(t.loss.item() for t in history[:5])
    after = model.text.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_images_without_a_caption_are_the_unconditional_half():
    model, (data, captions) = text_model(), pictures()
    model.text.requires_grad_(False)
    latents = encode_data(model, data, [*captions[:-1], None])
    assert latents.caption_index[-1] == 0
    assert torch.equal(latents.captions.text[:1], model.condition_on([None]).text)


def test_two_text_encoders_can_be_used_and_not_trained(tmp_path):
    tiny.stable_diffusion_xl(tmp_path)
    model = nelbo.load(tmp_path / "pipeline")
    data, captions = pictures()
    with pytest.raises(NelboError, match="two text encoders cannot be trained"):
        encode_data(model, data, captions)
    with pytest.raises(NelboError, match="two text encoders cannot be trained"):
        PriorObjective(model)
    model.text.requires_grad_(False)
    latents = encode_data(model, data, captions)
    assert (latents.captions.pooled_text[0] == 0).all()
    terms = PriorObjective(model)(latents, generator=seeded())
    assert terms.loss.isfinite()


def test_mistakes_are_explained(monkeypatch):
    model, (data, captions) = text_model(), pictures()
    learns, with_tokens = PriorObjective(model), encode_data(model, data, captions)
    model.text.requires_grad_(False)
    frozen, embedded = PriorObjective(model), encode_data(model, data, captions)
    with pytest.raises(NelboError, match="needs latents with tokens"):
        learns(embedded)
    with pytest.raises(NelboError, match="needs latents with embedded captions"):
        frozen(with_tokens)
    monkeypatch.setattr(
        "nelbo.training.kinds.latent.latents.available_memory", lambda device: 1_000
    )
    with pytest.raises(NelboError, match=r"captions embedded take .* GB are free"):
        encode_data(model, data, captions)


def test_a_clip_model_by_itself_is_read(tmp_path):
    """Stable Diffusion's text encoder without the pipeline, and the text half of a whole CLIP."""
    parts = tiny.text_parts(tmp_path / "made")
    alone = tmp_path / "alone"
    for part in parts.values():
        part.save_pretrained(alone)
    prompts = ["a red cat", ""]
    tokens = TextEncoder.from_pretrained(alone).tokens(prompts)
    with torch.no_grad():
        expected = parts["text_encoder"](tokens).last_hidden_state
    torch.testing.assert_close(TextEncoder.from_pretrained(alone).encode(prompts), expected)

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config=tiny.text_config(parts["tokenizer"]).to_dict(), vision_config=vision
    )
    whole = transformers.CLIPModel(config).eval()
    both = tmp_path / "both"
    whole.save_pretrained(both)
    parts["tokenizer"].save_pretrained(both)
    with torch.no_grad():
        expected = whole.text_model(tokens).last_hidden_state
    torch.testing.assert_close(TextEncoder.from_pretrained(both).encode(prompts), expected)
