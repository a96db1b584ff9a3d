"""A model goes through every command by what it answers, whatever its kind: toys of ten lines."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from PIL import Image

import nelbo
from nelbo.chain.evidence import Costs
from nelbo.chain.model import Model
from nelbo.cli import main
from nelbo.families import FAMILIES, Family

LEVELS, SHAPE = 17, (1, 8, 8)  # of the digits


class Toy(Family):
    def build(self):
        self.register_buffer("ink", torch.full(SHAPE, 0.2))

    def fitting(self, examples, budget, generator):
        yield from ()

    def draws(self, n, generator):
        noise = torch.rand(n, *SHAPE, generator=generator)
        return self.data.to_network((noise < self.ink).long() * (LEVELS - 1))


class Even(Toy):
    """Every pixel level is as likely: log2 17 bits a pixel, exactly."""

    def costs(self, x_0, generator):
        nats = torch.full((len(x_0),), math.prod(SHAPE) * math.log(LEVELS))
        return Costs.of("exact", {"pixels": nats}, x_0)


class Blank(Toy):
    """Draws pictures and gives none a probability, as a GAN."""

    def costs(self, x_0, generator):
        return Costs.of("none", {}, x_0)


class Inky(Toy):
    """Exact: geometric in the ink of a pixel, so that dark digits surprise it."""

    def costs(self, x_0, generator):
        logits = -0.3 * torch.arange(LEVELS).double()
        nats = -logits.log_softmax(0)[self.data.to_levels(x_0)].flatten(1).sum(1)
        return Costs.of("exact", {"ink": nats}, x_0)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The directory that each was saved to."""
    paths = {}
    for toy in (Even, Blank, Inky):
        model = toy(data=nelbo.Pixels(LEVELS))
        model.allocate(SHAPE, nelbo.Pixels(LEVELS))
        path = tmp_path_factory.mktemp("toys") / toy.__name__
        notes = {"source": "digits", "trained": {"seconds": 1.0, "steps": 1}}
        nelbo.save(model, path, notes=notes)
        paths[toy.__name__] = str(path)
    yield paths
    for toy in (Toy, Even, Blank, Inky):
        FAMILIES.pop(toy.__name__, None)


def run_json(capsys, *arguments):
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def digits(n):
    from nelbo.data import load_data

    return load_data("digits", "test").subset(n, 0)


def inky_bits(n):
    k = digits(n).images.double()
    log_z = math.log(sum(math.exp(-0.3 * level) for level in range(LEVELS)))
    return (0.3 * k + log_z).flatten(1).mean(1) / math.log(2)


def test_a_saved_model_comes_back(toys):
    model = nelbo.load(toys["Inky"])
    assert isinstance(model, Model)
    assert (model.shape, model.data, model.chain) == (SHAPE, nelbo.Pixels(LEVELS), None)
    assert torch.equal(model.ink, torch.full(SHAPE, 0.2))


def test_evaluate_reads_an_exact_likelihood_in_one_call_an_image(toys, tmp_path, capsys):
    found = run_json(capsys, "evaluate", toys["Inky"], "--images", "9", "--out", str(tmp_path))
    expected = inky_bits(9)
    assert found["kind"] == "exact"
    assert found["bits_per_dim"]["total"]["mean"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert found["bits_per_dim"].keys() == {"ink", "total"}
    assert found["bits_per_dim"]["total"]["monte_carlo_error"] == 0
    assert (found["calls_per_image"], found["levels_per_image"]) == (1, 0)
    rows = list(csv.DictReader((tmp_path / "images.csv").open()))
    bits = [float(row["bits_per_dim"]) for row in rows]
    assert bits == pytest.approx(expected.tolist(), abs=1e-4)
    # What was stored is read again, and levels mean nothing to it.
    again = run_json(capsys, "evaluate", toys["Inky"], "--images", "9", "--out", str(tmp_path))
    assert again["calls_stored"] == 9
    assert again["bits_per_dim"] == found["bits_per_dim"]
    some = run_json(capsys, "evaluate", toys["Inky"], "--images", "9", "--levels", "3")
    assert some["bits_per_dim"] == found["bits_per_dim"]


def test_evaluate_of_a_model_that_gives_no_probability_says_so(toys, capsys):
    main(["evaluate", toys["Blank"], "--images", "4"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "gives images no probability" in shown
    assert "Monte Carlo" not in shown
    assert "network evaluations" not in shown
    found = run_json(capsys, "evaluate", toys["Blank"], "--images", "4")
    assert found["kind"] == "none"
    assert found["bits_per_dim"]["total"]["mean"] is None


def test_rank_and_compare(toys, tmp_path, capsys):
    found = run_json(
        capsys, "rank", toys["Inky"], "--images", "9", "--shown", "2", "--out", str(tmp_path / "r")
    )
    best = int(inky_bits(9).argmax())
    assert found["most_surprising"][0]["name"] == digits(9).names[best]
    runs = ["--runs", toys["Inky"], toys["Even"]]
    compared = run_json(capsys, "compare", "digits", *runs, "--images", "9")
    expected = float(inky_bits(9).mean()) - math.log2(LEVELS)
    assert compared["difference"] == pytest.approx(expected, abs=1e-6)
    assert compared["runs"][1]["bits_per_dim"] == pytest.approx(math.log2(LEVELS))


@pytest.mark.parametrize("score", ["bits", "excess"])
def test_what_has_no_probability_is_not_ranked(toys, tmp_path, capsys, score):
    ranking = ["rank", toys["Blank"], "--images", "4", "--score", score, "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(ranking)
    assert "Blank: a model that gives images no probability" in capsys.readouterr().err
    assert not (tmp_path / "ranking.csv").exists()


def test_what_has_no_probability_is_not_compared(toys, capsys):
    for runs in ([toys["Even"], toys["Blank"]], [toys["Blank"], toys["Even"]]):
        with pytest.raises(SystemExit):
            main(["compare", "digits", "--runs", *runs, "--images", "4"])
        shown = capsys.readouterr()
        assert "Blank: a model that gives images no probability" in shown.err
        assert "difference" not in shown.out
        assert "Evaluating" not in shown.err


@pytest.mark.parametrize("name", ["Even", "Blank"])
def test_sample_draws_the_same_images_whatever_the_batch(name, toys, tmp_path, capsys):
    pictures = []
    for size in ("2", "5"):
        out = tmp_path / f"{size}.png"
        main(["sample", toys[name], "-n", "5", "--batch-size", size, "--out", str(out)])
        pictures.append(Image.open(out).tobytes())
    assert pictures[0] == pictures[1]


def test_options_of_a_chain_are_refused(toys, tmp_path, capsys):
    for arguments in (
        ["sample", toys["Even"], "--steps", "3", "--out", str(tmp_path / "x.png")],
        ["sample", toys["Even"], "--sampler", "ddim", "--out", str(tmp_path / "x.png")],
        ["evaluate", toys["Even"], "--steps", "3"],
        ["likelihood", toys["Even"], "--images", "2"],
        ["classify", toys["Even"], "--images", "2"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "Traceback" not in capsys.readouterr().err


def test_a_model_that_was_saved_by_itself_is_reported_where_it_is(tmp_path, capsys):
    from nelbo.data import load_data
    from nelbo.families import PPCA

    model = PPCA(4).fit(load_data("digits", "train"))
    nelbo.save(model, tmp_path, notes={"source": "digits"})
    options = ["--images", "20", "--sample-images", "4"]
    found = run_json(capsys, "report", str(tmp_path), *options)
    bits = found["evaluation"]["test"]["bits_per_dim"]["total"]["mean"]
    shown = digits(299).subset(20, 0)
    x = model.data.to_network(shown.images)
    assert bits == pytest.approx(model.evidence(x).bits_per_dim.mean().item(), abs=0.3)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "With this model an ideal coder" in html
    assert (tmp_path / "samples" / "final.png").is_file()


@pytest.mark.parametrize("name", ["Inky", "Blank"])
def test_the_report_has_what_the_model_has(name, toys, tmp_path, capsys):
    out = tmp_path / "copy"
    options = ["--images", "6", "--sample-images", "4"]
    main(["report", toys[name], "--out", str(out), *options])
    html = (out / "report.html").read_text(encoding="utf-8")
    for title in ("Where the bits go", "The forward process", "The reverse process"):
        assert title not in html
    assert "Samples and data" in html
    assert ("With this model an ideal coder" in html) is (name == "Inky")
    assert ("gives images no probability" in html) is (name == "Blank")
    assert (out / "samples" / "final.png").is_file()
