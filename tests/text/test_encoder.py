"""The text encoder against transformers, and what becomes of a prompt that is too long."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from nelbo import MissingExtraError, NelboError, TextEncoder
from tests import typechecking
from tests.formats import tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    parts = tiny.text_parts(path / "made")
    for name, part in parts.items():
        part.save_pretrained(path / name)
    return parts, path


def test_equals_transformers(parts):
    peer, path = parts
    prompts = ["a red cat", ""]
    tokens = peer["tokenizer"](
        prompts, padding="max_length", max_length=tiny.TOKENS, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = peer["text_encoder"](tokens.input_ids).last_hidden_state
    ours = TextEncoder.from_pretrained(path).encode(prompts)
    assert ours.shape == (2, tiny.TOKENS, tiny.WIDTH)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_of_a_very_long_prompt_only_the_beginning_of_the_rest_is_shown(parts):
    text = TextEncoder.from_pretrained(parts[1])
    with pytest.warns(UserWarning, match="dropped") as notes:
        text.tokens([" ".join(["cat"] * 500)])
    assert len(str(notes[0].message)) < 200
    assert "…'" in str(notes[0].message).partition("dropped")[2]


def test_a_long_prompt_is_cut_and_what_is_dropped_is_shown(parts):
    encoder = TextEncoder.from_pretrained(parts[1])
    with pytest.warns(UserWarning, match=r"longer than 12 tokens; dropped: 'dog red ?'") as notes:
        cut = encoder.encode([" ".join(["cat"] * 10 + ["dog", "red"]), "cat"])
    assert len(notes) == 1
    whole = encoder.encode([" ".join(["cat"] * 10)])
    torch.testing.assert_close(cut[:1], whole)


def test_attention_may_be_masked_to_the_end_token(parts, tmp_path):
    peer, path = parts
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(path / part, tmp_path / part)
    file = tmp_path / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_attention_mask": True}))
    encoder = TextEncoder.from_pretrained(tmp_path)
    prompts = ["a red cat", "", " ".join(["cat"] * 10)]
    tokens = peer["tokenizer"](
        prompts, padding="max_length", max_length=tiny.TOKENS, return_tensors="pt"
    )
    assert tokens.attention_mask.sum(1).tolist() == [5, 2, 12]
    with torch.no_grad():
        theirs = peer["text_encoder"](**tokens).last_hidden_state
    torch.testing.assert_close(encoder.encode(prompts), theirs, rtol=0, atol=1e-6)


def test_half_precision_weights_become_float32(parts, tmp_path):
    peer, path = parts
    peer["tokenizer"].save_pretrained(tmp_path / "tokenizer")
    half = tiny.text_parts(tmp_path / "made")["text_encoder"].half()
    half.save_pretrained(tmp_path / "text_encoder", variant="fp16")
    ours = TextEncoder.from_pretrained(tmp_path).encode(["cat"])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(
        ours, TextEncoder.from_pretrained(path).encode(["cat"]), rtol=0, atol=0.02
    )


def test_float32_weights_are_read_whole_where_the_config_says_float16(parts, tmp_path):
    # As in the checkpoint of SDXL.
    peer, path = parts
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(path / part, tmp_path / part)
    file = tmp_path / "text_encoder" / "config.json"
    fields = json.loads(file.read_text())
    fields.pop("dtype", None)
    file.write_text(json.dumps(fields | {"torch_dtype": "float16"}))
    found = TextEncoder.from_pretrained(tmp_path).model.state_dict()
    for name, weight in peer["text_encoder"].state_dict().items():
        assert torch.equal(found[name], weight), name


def test_mistakes_are_explained(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(typechecking, "MOST_CHECKS", 0)  # which would find the number first
    encoder = TextEncoder.from_pretrained(parts[1])
    for wrong in ("cat", [], [3]):
        with pytest.raises(NelboError, match="must be a list of strings"):
            encoder.encode(wrong)
    with pytest.raises(NelboError, match=r"text_encoder holds no config\.json"):
        TextEncoder.from_pretrained(tmp_path)
    with pytest.raises(NelboError, match=r"^path is None"):
        TextEncoder.from_pretrained(None)


def test_a_tokenizer_of_another_model(parts, tmp_path):
    """Whose numbers the network has no vectors for."""
    peer, path = parts
    shutil.copytree(path / "tokenizer", tmp_path / "tokenizer")
    fewer = tiny.text_config(peer["tokenizer"], vocab_size=len(peer["tokenizer"]) - 2)
    type(peer["text_encoder"])(fewer).save_pretrained(tmp_path / "text_encoder")
    encoder = TextEncoder.from_pretrained(tmp_path)
    most = len(peer["tokenizer"])
    with pytest.raises(NelboError, match=rf"number {most - 1}, .* 0\.\.{most - 3} \(vocab_size\)"):
        encoder.encode(["a cat"])


def test_a_missing_package_names_the_extra(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nelbo\[text\]'"):
        TextEncoder.from_pretrained(parts[1])
    with pytest.raises(MissingExtraError, match=r"pip install 'nelbo\[text\]'"):
        TextEncoder.for_captions(["red cat"])


def test_prompts_do_not_need_transformers(parts):
    """Which takes longer to import than torch."""
    code = "import sys, nelbo; sys.modules['transformers'] = None; "
    code += f"nelbo.TextEncoder.from_pretrained({str(parts[1])!r}).encode(['a cat'])"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transformers_model_and_tokenizer_serve_as_they_are(parts):
    peer, path = parts
    given = TextEncoder(peer["tokenizer"], peer["text_encoder"])
    prompts = ["a red cat", "", "red dog"]
    ours = TextEncoder.from_pretrained(path)
    torch.testing.assert_close(given.encode(prompts), ours.encode(prompts), rtol=0, atol=1e-6)
