"""nelbo compare --budget: families trained alike and set side by side."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
import nelbo.families
from nelbo.base.errors import NelboError
from nelbo.cli import main
from nelbo.commands import compare_families, contestants
from nelbo.commands.options.compare import Compare
from nelbo.commands.taxonomy import TAXONOMY
from nelbo.families import PPCA, Family
from nelbo.training.images import TrainingImages
from nelbo.training.kinds import network_size
from nelbo.training.kinds.network_size import FittingNetwork

SMALL = ("--budget", "0.4s", "--images", "12", "--samples", "16", "--levels", "10")


def contest(images: TrainingImages, budget: float = 600.0) -> contestants.Contest:
    """A contest of these images on the CPU."""
    device, options = torch.device("cpu"), Compare("digits")
    return contestants.Contest(images, images.reported, budget, 16, device, options)


def compare(out: Path, *arguments: str) -> None:
    usual = SMALL[2:] if "--budget" in arguments else SMALL
    main(["compare", "digits", *usual, "--out", str(out), *arguments])


def compared(capsys: Any, out: Path, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    compare(out, "--json", *arguments)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module", autouse=True)
def one_candidate():
    """PPCA with one number of latents: how many candidates there is time for is no constant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TAXONOMY, "ppca", replace(TAXONOMY["ppca"], candidates=({"latents": 4},)))
        yield


@pytest.fixture(scope="module")
def done(one_candidate, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("comparison")
    compare(out, "--families", "gan", "ppca", "--seeds", "2")
    return out


@pytest.fixture
def out(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "copy"))


def mistake(capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "digits", *arguments])
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_taxonomy_has_every_family():
    own = {
        name
        for name, kind in vars(nelbo.families).items()
        if isinstance(kind, type) and issubclass(kind, Family) and kind is not Family
    }
    assert {entry.model for entry in TAXONOMY.values() if entry.model} == own


def test_table_page_and_models(out, capsys):
    found = compared(capsys, out, "--families", "ppca", "gan", "--seeds", "2")
    ppca, gan = found["families"]
    assert (ppca["family"], ppca["evidence"], ppca["seeds"]) == ("ppca", "bound", 2)
    assert (gan["evidence"], gan["bits_per_dim"]) == ("none", None)
    assert gan["random convolutions"]["frechet"] > found["real"]["random convolutions"]["frechet"]

    # The model that was saved, on the same images, has the bits of the table.
    model = nelbo.load(out / "models" / "ppca-0")
    test = TrainingImages.load("digits", None, None).reported.subset(12, 0)
    bits = model.evidence(model.data.to_network(test.images)).bits_per_dim
    assert ppca["runs"][0]["bits"] == pytest.approx(bits.tolist())
    assert ppca["bits_per_dim"] == pytest.approx(bits.mean().item())
    assert ppca["error_over_images"] == pytest.approx(bits.std().item() / 12**0.5)
    assert model.latents == 4
    assert ppca["notes"] == ""  # nothing was chosen
    assert ppca["modes"]["count"] == 25
    assert 0 < ppca["modes"]["reached"] <= found["real"]["modes"]["reached"]

    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert [row["family"] for row in rows] == ["ppca", "gan"]
    assert float(rows[0]["bits_per_dim"]) == pytest.approx(ppca["bits_per_dim"])
    assert rows[1]["bits_per_dim"] == ""
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page.count("PPCA, sample") == 12
    assert page.index("Latent variables") < page.index("Adversarial")
    assert f"≤ {ppca['bits_per_dim']:.3f}" in page
    assert "12 test images are few: their ± can be relied on from 20 images on." in page
    assert "Sizes are those that suit the images for validation best" not in page  # of one


def test_what_is_there_is_not_done_again(out, capsys, monkeypatch):
    trained = []
    real = compare_families.train

    def counted(name, contest, directory, seed):
        trained.append((name, seed))
        return real(name, contest, directory, seed)

    monkeypatch.setattr(compare_families, "train", counted)
    before = compared(capsys, out, "--families", "ppca", "gan", "--seeds", "2")
    assert trained == []
    # As after an interruption: a model without its figures.
    (out / "figures" / "ppca-1.json").unlink()
    after = compared(capsys, out, "--families", "ppca", "gan", "--seeds", "2")
    assert trained == [("ppca", 1)]
    assert after["families"][0]["bits_per_dim"] == before["families"][0]["bits_per_dim"]
    other = mistake(capsys, "--budget", "2s", *SMALL[2:], "--out", str(out))
    assert "a comparison with other budget: give another --out" in other


def test_one_that_fails_does_not_lose_the_others(out, capsys, monkeypatch):
    real = compare_families.train

    def failing(name, *arguments):
        if name == "vae":
            raise NelboError("training diverged")
        if name == "lds":
            raise RuntimeError("not enough\nmemory")
        return real(name, *arguments)

    monkeypatch.setattr(compare_families, "train", failing)
    families = ("ppca", "vae", "lds", "gan")
    found = compared(capsys, out, "--families", *families, "--seeds", "2")["families"]
    assert [one["family"] for one in found] == list(families)
    assert [one["seeds"] for one in found] == [2, 0, 0, 2]
    assert found[1]["notes"] == "failed: training diverged"
    assert found[2]["notes"] == "failed: RuntimeError: not enough memory"
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "failed: training diverged" in page
    compare(out, "--families", *families, "--seeds", "2")
    assert "failed: training diverged" in capsys.readouterr().out


def test_where_every_family_fails_the_page_has_the_reasons(tmp_path, capsys, monkeypatch):
    def failing(*arguments):
        raise NelboError("images too large")

    monkeypatch.setattr(compare_families, "train", failing)
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, "--families", "vae", "gan", "--seeds", "1")
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert "every fit failed: images too large" in " ".join(shown.err.split())
    assert "no family has figures" in shown.out
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("Test images, sample") == 12
    assert page.count("failed: images too large") == 4  # in its notes and in its section
    assert len(list(csv.DictReader((tmp_path / "comparison.csv").open()))) == 2


@pytest.mark.slow
def test_latent_diffusion_and_flow_matching_by_the_library_itself(tmp_path, capsys):
    # A quarter of the time has to be enough for a step of the autoencoder, on a busy machine too.
    budget = ("--budget", "6s")
    found = compared(capsys, tmp_path, "--families", "latent", "flow", "--seeds", "1", *budget)
    found = found["families"]
    assert [one["family"] for one in found] == ["flow", "latent"]
    assert all(one["evidence"] == "bound" and one["bits_per_dim"] > 0 for one in found)
    flow = nelbo.load(tmp_path / "models" / "flow-0")
    assert (flow.prediction, flow.data) == ("velocity", nelbo.Pixels(17))
    latent = nelbo.load(tmp_path / "models" / "latent-0")
    assert isinstance(latent, nelbo.LatentDiffusion)
    # Both stages count.
    alone = json.loads((tmp_path / "models" / "latent-0" / "nelbo.json").read_text())["trained"]
    assert found[1]["steps"] > alone["steps"]


def test_diffusion_by_the_library_itself(out, capsys, monkeypatch):
    # Which network suits the time is another test's.
    fitting = FittingNetwork((8, 16), 10_000, 0.01, 1_000.0)
    monkeypatch.setattr(network_size, "choose_network", lambda *_, **__: fitting)
    threads = torch.get_num_threads()
    found = compared(capsys, out, "--families", "ppca", "diffusion", "--seeds", "1")["families"]
    assert torch.get_num_threads() == threads
    diffusion = found[-1]
    assert (diffusion["family"], diffusion["evidence"]) == ("diffusion", "bound")
    assert 0 < diffusion["bits_per_dim"] < 8
    run = out / "models" / "diffusion-0"
    assert nelbo.load(run).num_levels == 1000
    # It can be trained on, reported and compared as any run.
    assert {"config.yaml", "metrics.jsonl", "training"} <= {file.name for file in run.iterdir()}


def test_only_images_for_training_are_fitted(tmp_path, monkeypatch):
    images = TrainingImages.load("digits", None, None)
    candidates = tuple({"latents": latents} for latents in (4, 16, 32))
    monkeypatch.setitem(TAXONOMY, "ppca", replace(TAXONOMY["ppca"], candidates=candidates))
    seen = []
    real = PPCA.fit_steps

    def spied(self, data, /, **options):
        seen.append((data.names, data.splits))
        return real(self, data, **options)

    monkeypatch.setattr(PPCA, "fit_steps", spied)
    trained = contestants.train("ppca", contest(images), tmp_path / "ppca", 0)
    fitted = trained.model.data.to_network(images.train.images).flatten(1).double()
    torch.testing.assert_close(trained.model.mean, fitted.mean(0))
    # The choice is that of validation images.
    costs = {}
    for latents in (4, 16, 32):
        with monkeypatch.context() as plain:
            plain.setattr(PPCA, "fit_steps", real)
            model = PPCA(latents).fit(images.train)
        x = model.data.to_network(images.validation.images)
        costs[latents] = model.evidence(x).bits_per_dim.mean().item()
    assert trained.choice == f"latents {min(costs, key=costs.__getitem__)}"
    assert len(seen) == 3
    for names, splits in seen:
        assert not set(names) & set(images.test.names)
        assert splits.count("validation") == len(images.validation)


def test_mistakes(tmp_path, capsys):
    out = ("--out", str(tmp_path / "new"))
    wrong = mistake(capsys, "--budget", "1s", *out, "--families", "ppca", "markow")
    assert "unknown family 'markow' (did you mean markov?): expected one of ppca, vae" in wrong
    for arguments, message in {
        (): "give --runs A B",
        ("--budget", "1s"): "give --runs A B",
        (*out, "--budget", "soon"): "'soon' is not a duration",
        (*out, "--budget", "1s", "--seeds", "0"): "--seeds must be at least 1, got 0",
        (*out, "--budget", "1s", "--samples", "3"): "--samples must be at least 4, got 3",
        (*out, "--budget", "1s", "--images", "1"): "--images must be at least 2, got 1",
        (*out, "--budget", "1s", "--split", "all"): "--split is for --runs",
        (*out, "--budget", "1s", "--device", "mps"): "cannot be on device 'mps'",
        ("--runs", "a", "b", "--budget", "1s"): "--budget trains families",
    }.items():
        assert message in mistake(capsys, *arguments)
    assert not (tmp_path / "new").exists()


def test_candidates_without_time_are_named(tmp_path, monkeypatch):
    images = TrainingImages.load("digits", None, None)
    candidates = tuple({"latents": latents} for latents in (4, 16, 32))
    monkeypatch.setitem(TAXONOMY, "ppca", replace(TAXONOMY["ppca"], candidates=candidates))
    trained = contestants.train("ppca", contest(images, 1e-3), tmp_path / "ppca", 0)
    assert trained.choice == "latents 4 (no time for latents 16, latents 32)"


def test_candidates_that_are_refused_are_named(tmp_path, monkeypatch):
    images = TrainingImages.load("digits", None, None)
    candidates = tuple({"latents": latents} for latents in (4, 64))
    monkeypatch.setitem(TAXONOMY, "ppca", replace(TAXONOMY["ppca"], candidates=candidates))
    trained = contestants.train("ppca", contest(images), tmp_path / "ppca", 0)
    assert trained.choice.startswith("latents 4 (latents 64 failed: PPCA needs fewer latents")
