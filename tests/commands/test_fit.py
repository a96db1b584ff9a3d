"""nelbo fit, and the short chains that sample and evaluate then find."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import nelbo
from nelbo.base.errors import NelboError
from nelbo.cli import main
from nelbo.commands.common import check_optimal
from nelbo.data import load_data
from nelbo.diffusion.profile import PROFILE_FILE
from nelbo.evidence import short_chains
from nelbo.formats import model_directory
from nelbo.networks import hub
from tests.faults.test_mistakes import mistake, snapshot


@pytest.fixture(scope="module")
def fitted(run_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(run_path, path)
    main(["fit", str(path), "--images", "40", "--levels", "None"])
    return path


def test_fit_stores_a_profile_and_leaves_the_model_alone(run_path, fitted, capsys):
    before, after = nelbo.load(run_path), nelbo.load(fitted)
    assert before.profile is None
    assert after.profile is not None
    assert (after.profile.examples, after.profile.num_levels) == (40, 20)
    assert after.variance == before.variance
    main(["fit", str(fitted), "--images", "40", "--levels", "None"])
    shown = capsys.readouterr().out
    assert "evenly spaced" in shown
    assert "optimal" in shown
    assert torch.equal(nelbo.load(fitted).profile.squared_error, after.profile.squared_error)


def test_a_chain_of_one_step_ends_in_noise(run_path, capsys):
    few = ["--steps", "1", "--images", "4", "--levels", "all", "--json"]
    main(["evaluate", str(run_path), *few])
    bits = json.loads(capsys.readouterr().out)["bits_per_dim"]
    assert bits["prior_matching"]["mean"] < 0.1  # at level 1 several bits


def test_evaluate_and_sample_take_the_optimal_levels(fitted, tmp_path, capsys):
    few = ["--steps", "6", "--images", "100"]
    main(["evaluate", str(fitted), *few, "--levels", "optimal", "--json"])
    printed = json.loads(capsys.readouterr().out)
    model = nelbo.load(fitted)
    chain = model.with_profile(model.profile, variance="analytic").respace(
        nelbo.optimal_levels(model.profile, 6)
    )
    digits = load_data("digits", "test").subset(100, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        bounds = [
            chain.elbo(model.data.to_network(batch.images), generator=generator)
            for batch in digits.batches(64)
        ]
    total = printed["bits_per_dim"]["total"]
    assert total["mean"] == pytest.approx(
        nelbo.Bound.cat(bounds).mean().bits_per_dim.mean, abs=5 * total["monte_carlo_error"]
    )
    assert printed["levels_of_chain"] == 5

    main(["evaluate", str(fitted), *few, "--json"])
    even = json.loads(capsys.readouterr().out)
    assert even["levels_of_chain"] == 5
    assert even["bits_per_dim"]["total"]["mean"] > total["mean"] + 3 * total["monte_carlo_error"]

    out = tmp_path / "x.png"
    main(
        ["sample", str(fitted), "-n", "4", "--steps", "6", "--levels", "optimal", "--out", str(out)]
    )
    assert Image.open(out).size[0] > 0


def test_a_checkpoint_that_ships_is_fitted_in_a_copy(run_path, tmp_path, capsys, monkeypatch):
    """With --out; without, nothing is written into the package."""
    shelf = tmp_path / "shelf"
    shutil.copytree(run_path, shelf / "toy")
    monkeypatch.setattr(model_directory, "CHECKPOINTS", shelf)
    monkeypatch.chdir(tmp_path)
    before = snapshot(shelf)
    brief = ["--images", "20", "--levels", "None"]
    message = mistake(capsys, "fit", "toy", *brief)
    assert "comes with nelbo and stays as it is: give --out DIR" in message
    message = mistake(capsys, "sample", "toy", "--steps", 5, "--levels", "optimal")
    assert "nelbo fit toy --out DIR once, and use DIR" in message
    out = tmp_path / "new" / "fitted"
    main(["fit", "toy", "--out", str(out), *brief])
    assert snapshot(shelf) == before
    # All that makes the model is as it was, and its training stays where it is.
    assert not (out / "training").exists()
    kept = {name for name in before if not name.startswith(str(shelf / "toy" / "training"))}
    names = {Path(name).relative_to(shelf / "toy") for name in kept}
    assert {p.relative_to(out) for p in out.rglob("*") if p.is_file()} == {
        *names,
        Path(PROFILE_FILE),
    }
    assert nelbo.load(out).profile.examples == 20
    main(["sample", str(out), *["--steps", "5", "--levels", "optimal", "-n", "1"]])
    assert "is not empty" in mistake(capsys, "fit", "toy", "--out", out, *brief)


def test_mistakes(run_path, fitted, tmp_path, capsys):
    optimal = ["--levels", "optimal"]
    for command in ("sample", "evaluate"):
        message = mistake(capsys, command, run_path, *optimal, "--steps", 5)
        assert f"run nelbo fit {run_path} once" in message
        assert "needs --steps" in mistake(capsys, command, fitted, *optimal)
        message = mistake(capsys, command, fitted, *optimal, "--steps", 21)
        assert "K must lie in 1..20" in message
    assert "--images must be at least 1" in mistake(capsys, "fit", fitted, "--images", 0)
    assert "--levels must be at least 1" in mistake(capsys, "fit", fitted, "--levels", 0)
    assert "is no directory" in mistake(capsys, "fit", tmp_path / "nothing")
    assert "--no-captions: a diffusion model reads no text, leave it out" in mistake(
        capsys, "fit", fitted, "--no-captions"
    )


@pytest.mark.parametrize("command", ["fit", "report"])
def test_a_copy_lies_outside_of_the_model(command, run_path, tmp_path, capsys):
    run, link = tmp_path / "run", tmp_path / "link"
    shutil.copytree(run_path, run)
    link.symlink_to(run)
    before = snapshot(run)
    for out in (run / "a" / "b", run / "training" / "a", link / "a"):
        message = mistake(capsys, command, run, "--out", out)
        assert f"--out {out} lies within {run}: give a place outside of it" in message
    assert snapshot(run) == before


def test_a_hub_that_cannot_be_reached_is_said_to_be(monkeypatch):
    """Whether a model has been fitted is not known then, and fitting it is no way out."""
    monkeypatch.setattr(hub, "_answers", lambda hub_id, period: False)
    with pytest.raises(NelboError, match="the Hub cannot be reached") as error:
        check_optimal("nobody/nothing-of-nelbo", 5)
    assert "nelbo fit" not in str(error.value)


def test_the_best_levels_are_known_once_a_chain_is_fitted(run_path, fitted):
    chain = short_chains.optimal_chain(nelbo.load(fitted), 5)
    assert (chain.num_levels, chain.variance) == (5, "analytic")
    with pytest.raises(NelboError, match="known once nelbo fit has measured it"):
        short_chains.optimal_chain(nelbo.load(run_path), 5)


def test_doubts_where_optimal_levels_are_of_no_use(fitted, monkeypatch):
    profile = nelbo.load(fitted).profile
    T = profile.num_levels
    lengths = ("5", "10")
    bounds = {
        "even": dict.fromkeys(lengths, 2.0),
        "optimal": {"5": 1.9999, "10": 1.9998},
    }
    assert "gain at most 0.0002 bits/dim" in " ".join(short_chains.doubts(profile, bounds))
    bounds["optimal"]["5"] = 1.5
    assert not any("gain" in doubt for doubt in short_chains.doubts(profile, bounds))
    bounds = {"even": {"3": 2.0}, "optimal": {"3": 1.0}}
    for levels, doubted in (([1, T - 1, T], True), ([1, T // 2, T], False)):
        monkeypatch.setattr(short_chains, "optimal_levels", lambda profile, K, of=levels: of)
        assert bool(short_chains.doubts(profile, bounds)) == doubted


def test_the_table_has_an_error_and_says_whose_images_it_is_of(fitted, capsys):
    main(["fit", str(fitted), "--images", "40", "--levels", "None"])
    shown = " ".join(capsys.readouterr().out.split())
    main(["fit", str(fitted), "--images", "40", "--levels", "None", "--json"])
    printed = json.loads(capsys.readouterr().out)
    error = printed["standard_error"]
    assert "of the 40 validation images that were fitted on" in shown
    assert f"each ± {error:.3f} over images" in shown
    assert printed["of_the_images_fitted_on"] is True
    # The spread of the score matching of more images, each of one noise at every level as in the
    # measurement: noise that levels share does not average out over them.
    model = nelbo.load(fitted)
    x_0 = model.data.to_network(load_data("digits", "train").images[:300])
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    nats = torch.zeros(len(x_0))
    with torch.no_grad():
        for level in range(2, model.num_levels + 1):
            t = torch.full((len(x_0),), level)
            nats += model.level_term(model.predict(model.diffuse(x_0, noise, t), t), x_0, t)
    bits = nats.double() / (x_0[0].numel() * math.log(2))
    assert error == pytest.approx(bits.std().item() / 40**0.5, rel=0.3)


def test_the_table_of_a_single_image_has_no_error(fitted, capsys):
    main(["fit", str(fitted), "--images", "1", "--levels", "3", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["standard_error"] is None
    assert any("1 image is few" in line for line in printed["warnings"])
    for split, of in (("validation", "validation "), ("train", "train ")):
        main(["fit", str(fitted), "--images", "1", "--levels", "3", "--split", split])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"These are of the one {of}image that was fitted on, without an error" in shown
