"""What the commands make of the evidence of latent models: all that they make of pixel models'."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo import Bound, LatentBound, LatentDiffusion
from nelbo.base.console import MESSAGES
from nelbo.chain.estimators import Importance, proposal_from
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.evidence import classify
from nelbo.evidence.evaluation import batch_generators, evaluate
from nelbo.evidence.inputs import condition_for
from nelbo.evidence.pilot import pilot
from nelbo.evidence.progress import find_levels, levels_to_compare
from tests.commands.test_evidence import run_json, table
from tests.faults.test_mistakes import mistake
from tests.formats import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels")

PROMPTS = ("red cat", "dog", "cat")
TERMS = {
    "reconstruction",
    "entropy",
    "latent_reconstruction",
    "prior_matching",
    "score_matching",
}


def said_of(name: str) -> str:
    """The caption of a picture."""
    return PROMPTS[int(name.split(".")[0]) % 3]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    folder.mkdir()
    rows = []
    for i in range(9):
        values = random.normal((40, 120, 200)[i % 3], 25, (16, 16, 3)).clip(0, 255)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": PROMPTS[i % 3]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    """A Stable Diffusion of a short chain, with its decoder's scale."""
    path = tmp_path_factory.mktemp("stable")
    scheduler = diffusers.DDIMScheduler(40, beta_start=0.005, beta_end=0.3, clip_sample=False)
    tiny.stable_diffusion(path, scheduler=scheduler)
    model = nelbo.load(path / "pipeline")
    model.decoder_scale = nelbo.fit_decoder_scale(model, load_data(str(pictures), "all", size=16))
    nelbo.save(model, path / "run")
    return path / "run"


@pytest.fixture(scope="module")
def on(pictures) -> list[str]:
    return ["--data", str(pictures), "--split", "all"]


def test_a_fit_without_captions_is_of_the_unconditional_model(run, on, tmp_path, capsys):
    found = {}
    for name, options in {"given": [], "without": ["--no-captions"]}.items():
        out = tmp_path / name
        printed = run_json(capsys, "fit", run, *on, "--levels", 3, *options, "--out", out)
        found[name] = printed["conditioned_on"], nelbo.load(out).chain.profile.squared_error
    assert [what for what, _ in found.values()] == ["caption", None]
    given, without = (error for _, error in found.values())
    assert not torch.equal(given, without)
    assert torch.allclose(given, without, rtol=0.5)  # the same images and noise


def test_evaluate_to_an_error_with_its_terms(run, on, tmp_path, capsys):
    options = ["evaluate", run, *on, "--error", 0.6]
    printed = run_json(capsys, *options, "--out", tmp_path / "out")
    bits = printed["bits_per_dim"]
    total = bits.pop("total")
    assert bits.keys() == TERMS
    assert sum(term["mean"] for term in bits.values()) == pytest.approx(total["mean"])
    assert 0 < total["monte_carlo_error"] <= 0.6
    assert bits["entropy"]["monte_carlo_error"] == 0
    assert printed["density"] is False
    assert printed["levels_of_chain"] == 39
    rows = table(tmp_path / "out" / "images.csv")
    assert [row["caption"] for row in rows] == [said_of(row["name"]) for row in rows]
    mean = sum(float(row["bits_per_dim"]) for row in rows) / 9
    assert mean == pytest.approx(total["mean"], rel=1e-4)
    # Goes on where it was cut short.
    files = sorted((tmp_path / "out" / "bounds").glob("*.safetensors"))
    files[-1].unlink()
    assert run_json(capsys, *options, "--out", tmp_path / "out")["bits_per_dim"] == {
        **bits,
        "total": total,
    }
    every = run_json(capsys, "evaluate", run, *on, "--levels", "all")["bits_per_dim"]["total"]
    error = (every["monte_carlo_error"] ** 2 + total["monte_carlo_error"] ** 2) ** 0.5
    assert abs(every["mean"] - total["mean"]) < 4 * error
    main(["evaluate", str(run), *on, "--precision", "auto", "--images", "3", "--error", "2"])
    shown = capsys.readouterr().out
    for name in ("−entropy of the encoder", "reconstruction of latents", "Monte Carlo"):
        assert name in shown


def test_fit_finds_the_levels_of_shorter_chains(run, on, pictures, tmp_path, capsys):
    fitted = tmp_path / "fitted"
    shutil.copytree(run, fitted)
    bounds = run_json(capsys, "fit", fitted, *on, "--levels", "None", "--draws", 4)["bits_per_dim"]
    model = nelbo.load(fitted)
    assert isinstance(model, LatentDiffusion)
    assert model.profile.num_levels == 40
    options = ["evaluate", fitted, *on, "--steps", 5, "--levels", "optimal", "--error", 0.15]
    optimal = run_json(capsys, *options)
    total = optimal["bits_per_dim"]["total"]
    assert optimal["levels_of_chain"] == 4
    # Measured on these images, of which both know the mean but for noise.
    assert abs(total["mean"] - bounds["optimal"]["5"]) < 0.4
    chain = model.with_profile(model.profile, variance="analytic").respace(
        nelbo.optimal_levels(model.profile, 5)
    )
    data = load_data(str(pictures), "all", size=16)
    with torch.no_grad():
        by_hand = chain.elbo(
            model.data.to_network(data.images).repeat(20, 1, 1, 1),
            condition_for(model, data).repeat(20),
            generator=torch.Generator().manual_seed(0),
        ).mean()
    assert total["mean"] == pytest.approx(by_hand.bits_per_dim.mean, abs=0.4)
    even = run_json(capsys, "evaluate", fitted, *on, "--steps", 5, "--error", 0.4)
    assert even["levels_of_chain"] == 4
    assert even["bits_per_dim"]["total"]["mean"] > total["mean"] + 1


def test_rank_shows_captions_and_maps(run, on, tmp_path, capsys):
    out = tmp_path / "ranking"
    printed = run_json(capsys, "rank", run, *on, "--out", out, "--levels", 5, "--shown", 3)
    rows = table(out / "ranking.csv")
    bits = [float(row["bits_per_dim"]) for row in rows]
    assert bits == sorted(bits, reverse=True)
    assert rows[0]["name"] == printed["most_surprising"][0]["name"]
    assert [row["caption"] for row in rows[:9]] == [
        row["caption"] for row in printed["most_surprising"]
    ]
    page = (out / "ranking.html").read_text()
    assert page.count('alt="where the bits of ') == 6
    assert rows[0]["caption"] in page


def test_rank_draws_a_few_levels_where_they_matter(run, on, pictures, tmp_path, capsys):
    """10 of 39 by default, as the library draws them; some of the images, with their captions."""
    main(["rank", str(run), *on, "--out", str(tmp_path / "out"), "--images", "4", "--seed", "2"])
    shown = capsys.readouterr().out.splitlines()
    rows = table(tmp_path / "out" / "ranking.csv")
    model, data = nelbo.load(run), load_data(str(pictures), "all", size=16).subset(4, 2)
    square, _ = pilot(model, data, torch.Generator().manual_seed(2))
    bound = Bound.cat(
        evaluate(
            model,
            data,
            levels=Importance(10, proposal_from(square), reconstructions=2),
            generator=torch.Generator().manual_seed(2),
        )
    )
    expected = dict(zip(data.names, bound.bits_per_dim.tolist(), strict=True))
    assert {row["name"]: float(row["bits_per_dim"]) for row in rows} == pytest.approx(
        expected, rel=1e-4
    )
    splits = {
        name: split
        for split in ("train", "validation", "test")
        for name in load_data(str(pictures), split, size=16).names
    }
    for line, row in zip(shown, rows, strict=False):
        name = row["name"]
        rest = f"given the caption  {name}  ({splits[name]})  {said_of(name)}"
        assert line.split("bits/dim")[1].strip() == rest


def test_a_complete_ranking_takes_no_pilot(run, on, tmp_path, capsys, monkeypatch):
    options = ["rank", run, *on, "--out", tmp_path / "out", "--batch-size", 4, "--no-maps"]
    first = run_json(capsys, *options)
    rows = table(tmp_path / "out" / "ranking.csv")
    pilots = []
    monkeypatch.setattr(
        "nelbo.evidence.progress.pilot",
        lambda *args: (pilots.append(args), pilot(*args))[1],
    )
    assert run_json(capsys, *options) == first
    assert table(tmp_path / "out" / "ranking.csv") == rows
    assert not pilots
    # One batch of three is gone: it is evaluated as it was.
    (tmp_path / "out" / "bounds" / "00-000001.safetensors").unlink()
    assert run_json(capsys, *options) == first
    assert len(pilots) == 1


def test_only_the_main_process_says_that_levels_are_looked_for(run, pictures, monkeypatch):
    said = []
    monkeypatch.setattr(MESSAGES, "status", lambda text: (said.append(text), nullcontext())[1])
    model, data = nelbo.load(run), load_data(str(pictures), "all", size=16)
    loud, _ = find_levels(5, model, data, 0)
    assert said == ["Finding the levels that matter"]
    quiet, _ = find_levels(5, model, data, 0, quiet=True)
    assert len(said) == 1
    assert torch.equal(loud.proposal, quiet.proposal)


def test_compare_a_model_of_latents_with_one_of_pixels(run, on, tmp_path, capsys):
    scheduler = diffusers.DDPMScheduler(20, beta_start=0.01, beta_end=0.4)
    pixels = diffusers.DDPMPipeline(unet=tiny.pixel_unet(sample_size=16), scheduler=scheduler)
    pixels.save_pretrained(tmp_path / "pixels")
    arguments = ["compare", on[1], "--split", "all", "--runs", run, tmp_path / "pixels"]
    printed = run_json(capsys, *arguments, "--levels", 10)
    # Of pixels, the levels are spread evenly, as the library spreads them.
    model, data = nelbo.load(tmp_path / "pixels"), load_data(on[1], "all", size=16)
    alone = evaluate(model, data, levels=10, generator=torch.Generator().manual_seed(0))
    mean = Bound.cat(alone).mean().bits_per_dim.mean
    assert printed["runs"][1]["bits_per_dim"] == pytest.approx(mean, rel=1e-5)
    # Of latents, the levels are drawn where they matter, as `rank` draws them.
    ranked = run_json(
        capsys, "rank", run, *on, "--levels", 10, "--out", tmp_path / "r", "--no-maps"
    )
    first = printed["runs"][0]["bits_per_dim"]
    assert first == pytest.approx(ranked["bits_per_dim"], rel=1e-5)
    main([str(argument) for argument in arguments])
    shown = capsys.readouterr().out
    assert f"{run} is conditioned on the caption of each image" in shown
    assert f"{tmp_path / 'pixels'} is conditioned on nothing" in shown


def test_two_models_of_latents_meet_the_same_levels(run, pictures):
    data = load_data(str(pictures), "all", size=16)
    loaded = [(nelbo.load(run), data), (nelbo.load(run), data)]
    with torch.no_grad():
        for parameter in loaded[1][0].prior.parameters():
            parameter.mul_(1.1)
    first, second = levels_to_compare(5, loaded, 0)
    square = sum(pilot(model, data, torch.Generator().manual_seed(0))[0] for model, _ in loaded)
    torch.testing.assert_close(first.proposal, proposal_from(square))
    assert torch.equal(first.proposal, second.proposal)
    assert levels_to_compare(39, loaded, 0) == [None, None]


def test_classify_by_captions(run, on, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    options = ["classify", run, *on, "--prompt-file", prompts, "--draws", 8]
    printed = run_json(capsys, *options, "--out", tmp_path / "classes.csv")
    assert printed["classes"] == 3
    assert printed["images_of_known_class"] == 9
    assert printed["calls_for_all_classes_and_levels"] == 3 * 40
    rows = table(tmp_path / "classes.csv")
    for found in (rows, printed["classified"]):
        assert [row["caption"] for row in found] == [said_of(row["name"]) for row in found]
    right = [row["class"] == said_of(row["name"]) for row in rows]
    assert printed["accuracy"] == pytest.approx(sum(right) / 9)
    model, data = nelbo.load(run), load_data(on[1], "all", size=16)
    with torch.no_grad():
        classes = model.condition_on(PROMPTS)
    x, generator = model.data.to_network(data.images), torch.Generator().manual_seed(0)
    (found,) = classify(model, x, classes, draws=8, generator=generator)
    assert [row["class"] for row in rows] == [PROMPTS[i] for i in found.label.tolist()]
    assert [int(row["calls"]) for row in rows] == found.calls.tolist()
    main([str(argument) for argument in options])
    assert "classified as they are captioned; chance is 33.3%" in capsys.readouterr().out


def test_classify_by_the_names_of_classes(run, pictures, tmp_path, capsys):
    for i in range(9):
        folder = tmp_path / "classes" / PROMPTS[i % 3].split()[-1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / f"{i}.png", folder)
    options = ["classify", run, "--data", tmp_path / "classes", "--split", "all", "--draws", 4]
    printed = run_json(capsys, *options, "--template", "red {}", "--out", tmp_path / "found.csv")
    assert printed["classes"] == 2
    assert printed["images_of_known_class"] == 9
    assert {row["class"] for row in table(tmp_path / "found.csv")} <= {"red cat", "red dog"}
    assert "has no {}" in mistake(capsys, *options, "--template", "red")


def test_likelihood_by_the_flow_of_the_prior(run, on, pictures, capsys):
    options = ["--images", 4, "--batch-size", 4, "--tolerance", 0.05, "--seed", 3]
    printed = run_json(capsys, "likelihood", run, *on, *options)
    assert printed["dequantization"] == "none"
    model, data = nelbo.load(run).eval(), load_data(str(pictures), "all", size=16).subset(4, 3)
    x, condition = model.data.to_network(data.images), condition_for(model, data)
    generator = torch.Generator().manual_seed(3)
    found = nelbo.evidence.likelihood.log_likelihood(
        model, x, condition, rtol=0.05, atol=0.05, generator=generator
    )
    bits = found.bits_per_dim.mean().item()
    assert printed["flow"]["bits_per_dim"] == pytest.approx(bits, rel=1e-5)
    assert found.dims == 3 * 16 * 16
    bound = model.elbo(x, condition, generator=generator).bits_per_dim.mean().item()
    assert printed["bound"]["bits_per_dim"] == pytest.approx(bound, rel=1e-5)


def test_evaluate_tells_the_captions_to_the_prior(run, on, capsys):
    printed = run_json(capsys, "evaluate", run, *on, "--levels", 3)
    model, data = nelbo.load(run), load_data(on[1], "all", size=16)
    square, _ = pilot(model, data, torch.Generator().manual_seed(0))
    with torch.no_grad():
        bound = model.elbo(
            model.data.to_network(data.images),
            model.condition_on([said_of(name) for name in data.names]),
            levels=Importance(3, proposal_from(square), reconstructions=2),
            generator=batch_generators(torch.Generator().manual_seed(0))(0),
        )
    assert isinstance(bound, LatentBound)
    total = printed["bits_per_dim"]["total"]["mean"]
    assert total == pytest.approx(bound.mean().bits_per_dim.mean, rel=1e-5)


def test_mistakes(run, run_path, on, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("cat\ndog\ncat\n")
    options = ["classify", run, *on]
    message = mistake(capsys, *options, "--prompt-file", prompts)
    assert "holds 'cat' twice" in message
    prompts.write_text("cat\n")
    message = mistake(capsys, *options, "--prompt-file", prompts)
    assert "at least 2 prompts, found 1" in message
    assert "give --prompt-file" in mistake(capsys, *options)
    prompts.write_text("cat\ndog\n")
    message = mistake(capsys, "classify", run_path, "--prompt-file", prompts)
    assert "has no text encoder" in message
    message = mistake(capsys, "evaluate", run, *on, "--steps", 5, "--levels", "optimal")
    assert f"run nelbo fit {run} once" in message
    message = mistake(capsys, "likelihood", run, *on, "--draws", 2)
    assert "is no lower bound" in message
