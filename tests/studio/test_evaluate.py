"""Evaluate: against the bound of every level, and by direct normals."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import kl_divergence

import nelbo
from nelbo.chain.distributions import generator_for
from nelbo.coding import compress
from nelbo.commands.studio import standings_of
from nelbo.data import load_data
from nelbo.evidence.file_sizes import file_size
from nelbo.evidence.modes import Modes
from nelbo.evidence.one_image import refine
from nelbo.evidence.one_image_pair import Contender, refine_difference
from nelbo.evidence.sample_quality import Likeness
from nelbo.evidence.standings import SPACES, Figures, packed
from nelbo.families import VAE, HierarchicalVAE, MarkovModel
from nelbo.formats import write_json
from nelbo.studio.tasks.classify import ranking
from tests.costs import COSTS, CostModel
from tests.studio.conftest import ask, of_type, picture

IMAGE = picture("image")


@pytest.fixture(scope="module")
def model(digits):
    return nelbo.load(digits)


@pytest.fixture(scope="module")
def x_0():
    """The upload as the model of digits takes it: grey, 17 levels."""
    grey = np.asarray(Image.open(io.BytesIO(IMAGE[1][1])).convert("L"), dtype=np.float64)
    levels = torch.from_numpy(np.rint(grey / 255 * 16))
    return (levels / 16 * 2 - 1).float()[None, None]


def exact(model, x_0: torch.Tensor, condition=None, draws: int = 60) -> tuple[float, float]:
    """The bound in bits/dim by every level many times, and its standard error."""
    noise = torch.Generator().manual_seed(11)
    copies = x_0.expand(draws, *x_0.shape[1:])
    with torch.no_grad():
        given = None if condition is None else condition.repeat(draws)
        bits = model.elbo(copies, given, generator=noise).bits_per_dim.double()
    return float(bits.mean()), float(bits.std()) / math.sqrt(draws)


def test_a_picture_is_refined_to_the_error_that_was_asked_for(serve, model, x_0):
    events = ask(serve(), "evaluate", {"model": "digits", "error": 0.4, "seed": 3}, [IMAGE])
    assert events[-1] == {"type": "done"}
    final = of_type(events, "estimate")[-1]
    assert final["final"]
    assert final["error"] <= 0.4
    known, error = exact(model, x_0)
    assert abs(final["bits"] - known) < 4 * math.hypot(final["error"], error)
    terms = {term["name"]: term["bits"] for term in final["terms"]}
    assert [*terms] == ["reconstruction", "prior_matching", "score_matching"]
    assert sum(terms.values()) == pytest.approx(final["bits"], abs=1e-5)
    groups = final["levels"]
    assert sum(group["bits"] for group in groups) == pytest.approx(
        terms["score_matching"], abs=1e-5
    )
    assert [groups[0]["from"], groups[-1]["to"]] == [2, 20]
    (found,) = of_type(events, "map")
    values = np.frombuffer(base64.b64decode(found["values"]), dtype="<f4")
    assert values.size == found["height"] * found["width"] == 64
    assert values.sum() / 64 == pytest.approx(known, rel=0.1)
    (sizes,) = of_type(events, "sizes")
    assert sizes["raw"] == math.ceil(64 * math.log2(17) / 8)
    assert sizes["bound"] == math.ceil(final["bits"] * 64 / 8)
    shown = Image.fromarray(((x_0[0, 0] + 1) * 8).round().byte().numpy())
    png = next(each for each in sizes["files"] if each["name"] == "PNG")
    assert png["bytes"] == file_size(shown, "PNG").whole


def test_two_models_on_one_picture(serve, digits, model, x_0, tmp_path):
    """Against the bounds of every level of each, and on shared noise."""
    other = nelbo.load(digits)
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.mul_(1.05)
    notes = {"source": "digits", "splits": {}, "trained": {"steps": 1}}
    nelbo.save(other, tmp_path / "other", notes=notes)
    markov = MarkovModel(order=1).fit(load_data("digits", "train"))
    nelbo.save(markov, tmp_path / "markov", notes={"source": "digits"})
    served = {"digits": digits, "other": tmp_path / "other", "markov": tmp_path / "markov"}
    client = serve({name: str(path) for name, path in served.items()})
    asked = {"first": "digits", "second": "other", "error": 0.4}
    events = ask(client, "compare", asked, [IMAGE])
    assert events[-1] == {"type": "done"}
    final = of_type(events, "pair")[-1]
    assert final["final"]
    assert final["error"] <= 0.4
    (a, first), (b, second) = exact(model, x_0), exact(nelbo.load(tmp_path / "other"), x_0)
    assert abs(final["difference"] - (a - b)) < 4 * math.hypot(final["error"], first, second)
    assert final["error"] < 0.7 * math.hypot(*(side["error"] for side in final["sides"]))
    assert final["difference"] == pytest.approx(
        final["sides"][0]["bits"] - final["sides"][1]["bits"], abs=1e-4
    )
    assert [event["index"] for event in of_type(events, "map")] == [0, 1]
    # Against a model whose bits have no error.
    final = of_type(ask(client, "compare", {**asked, "second": "markov"}, [IMAGE]), "pair")[-1]
    known = float(markov.evidence(x_0).bits_per_dim)
    assert final["sides"][1] == {"bits": pytest.approx(known, rel=1e-5), "error": 0}
    assert abs(final["difference"] - (a - known)) < 4 * math.hypot(final["error"], first)
    same = ask(client, "compare", {"first": "digits", "second": "digits"}, [IMAGE])
    assert "two different models" in same[-1]["error"]


def test_models_of_other_pictures_are_not_compared(serve, digits, stable):
    client = serve({"digits": str(digits), "stable": str(stable)})
    asked = {"first": "digits", "second": "stable"}
    assert "different sizes" in ask(client, "compare", asked, [IMAGE])[-1]["message"]
    assert ask(client, "open", {"model": "digits"})[-1] == {"type": "done"}


def test_several_pictures_and_a_class(serve, model, x_0):
    asked = {"model": "digits", "error": 0.5, "label": "3"}
    files = [IMAGE, picture("image", seed=1, name="second.png")]
    events = ask(serve(), "evaluate", asked, files)
    finals = [event for event in of_type(events, "estimate") if event["final"]]
    assert [event["index"] for event in finals] == [0, 1]
    known, error = exact(model, x_0, nelbo.Condition(label=torch.tensor([3])))
    assert abs(finals[0]["bits"] - known) < 4 * math.hypot(finals[0]["error"], error)


@pytest.mark.parametrize("kind", ["normal", "exponential", "squared"])
def test_refining_is_unbiased_and_its_error_is_true(kind):
    """Of costs with a known mean: what is reported, over many seeds."""
    model = CostModel(kind)
    x_0 = torch.zeros(1, 1, 1, 1)
    z = []
    for seed in range(40):
        *_, last = refine(model, x_0, None, 0.5, seed=seed)
        assert last.final
        z.append((float(last.evidence.bits_per_dim[0]) - model.exact) / last.error)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
    assert 0.7 < float(z.std()) < 1.35


def test_a_plan_has_a_bound():
    model = CostModel("normal")
    *_, last = refine(model, torch.zeros(1, 1, 1, 1), None, 1e-4, most=2_000)
    assert last.final
    assert last.calls < 3_000
    assert last.error > 1e-4


class Dearer(CostModel):
    """The costs of another, times a factor, at the same draws."""

    def elbo(self, *inputs, **options):
        bound = super().elbo(*inputs, **options)
        return replace(
            bound,
            reconstruction=1.1 * bound.reconstruction,
            score_matching=1.1 * bound.score_matching,
            reconstruction_variance=1.21 * bound.reconstruction_variance,
        )


@pytest.mark.parametrize("kinds", [("exponential", "squared"), ("squared", None)])
def test_the_difference_of_two_models_is_unbiased_and_its_error_is_true(kinds):
    """Of costs with known means: of independent draws, and of draws that differ by a tenth."""
    models = [CostModel(kinds[0]), Dearer("squared") if kinds[1] is None else CostModel(kinds[1])]
    exact = models[0].exact - (1.1 if kinds[1] is None else 1.0) * models[1].exact
    x_0 = torch.zeros(1, 1, 1, 1)
    z = []
    for seed in range(25):
        *_, (each, last) = refine_difference(
            (Contender(models[0], x_0), Contender(models[1], x_0)), 0.3, seed=seed
        )
        assert last.final
        z.append((last.bits - exact) / last.error)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
    assert 0.65 < float(z.std()) < 1.4
    if kinds[1] is None:
        # What both have in common cancels: the error is about a tenth of that of either.
        error = math.sqrt(float(each[0].monte_carlo_variance[0])) / math.log(2.0)
        assert last.error < 0.25 * error


@pytest.mark.parametrize("other", ["hierarchical", "exact", "chain"])
def test_a_model_without_levels_whose_evidence_has_noise_is_drawn_as_well(other):
    """A VAE has the bound of a few draws of its latents: their noise is part of the error."""
    x_0 = torch.linspace(-1, 1, 8).repeat(2).view(1, 1, 4, 4)
    others = {
        "hierarchical": lambda: _fresh(HierarchicalVAE(2, levels=2, width=8), 1),
        "exact": lambda: _fresh(MarkovModel(1), 1),
        "chain": lambda: nelbo.Diffusion(
            lambda x, time, condition: 0.1 * x,
            nelbo.NoiseSchedule.linear(5, 0.1, 0.3),
            data=nelbo.Pixels(8),
            shape=(1, 4, 4),
        ),
    }
    models = _fresh(VAE(2, width=8), 0), others[other]()
    noise, known = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for model in models:
            copies = x_0.expand(2000, 1, 4, 4)
            known.append(float(model.evidence(copies, generator=noise).bits_per_dim.mean()))
    pair = Contender(models[0], x_0), Contender(models[1], x_0)
    z = []
    for seed in range(20):
        *_, (_, last) = refine_difference(pair, 1.0, seed=seed)
        assert last.final
        z.append((last.bits - (known[0] - known[1])) / last.error)
    *_, (_, again) = refine_difference(pair, 1.0, seed=seed)
    assert (again.bits, again.error) == (last.bits, last.error)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
    assert 0.65 < float(z.std()) < 1.4
    if other != "chain":
        first, second = (list(refine(model, x_0, None, 0.1)) for model in models)
        assert first[0].error > 0
        assert (second[0].error > 0) == (other != "exact")
        *_, same = refine(models[0], x_0, None, 0.1)
        assert torch.equal(same.evidence.total, first[0].evidence.total)


def _fresh(family, seed):
    torch.manual_seed(seed)
    family.allocate((1, 4, 4), nelbo.Pixels(8))
    return family.eval()


def test_costs_of_the_test_are_those_it_names():
    assert set(COSTS) >= {"normal", "exponential", "squared"}


def test_rank_among_the_test_images(serve):
    client = serve()
    (low,) = of_type(ask(client, "rank", {"model": "digits", "bits": -100}), "rank")
    (high,) = of_type(ask(client, "rank", {"model": "digits", "bits": 1e5}), "rank")
    assert (low["share"], high["share"]) == (0, 1)
    assert low["images"] == len(low["bits"]) == 200
    assert low["error"] > 0
    middle = (low["bits"][99] + low["bits"][100]) / 2
    (half,) = of_type(ask(client, "rank", {"model": "digits", "bits": middle}), "rank")
    assert half["share"] == pytest.approx(0.5, abs=0.011)


def test_classes_are_ranked_by_their_bounds(serve, model, x_0):
    events = ask(serve(), "classify", {"model": "digits"}, [IMAGE])
    found = of_type(events, "ranking")[-1]["classes"]
    assert sum(each["probability"] for each in found) == pytest.approx(1)
    assert found[0]["behind"] == 0
    best, last = found[0], found[-1]
    known = [
        exact(model, x_0, nelbo.Condition(label=torch.tensor([int(each["name"])])), 200)
        for each in (best, last)
    ]
    nats = 64 * math.log(2)
    behind = (known[1][0] - known[0][0]) * nats
    error = math.hypot(known[0][1], known[1][1]) * nats
    assert abs(last["behind"] - behind) < 4 * math.hypot(last["error"], error)


def test_probabilities_are_those_of_bayes():
    found = ranking(["a", "b"], torch.tensor([[10.0, 11.0], [12.0, 13.0]]).double())["classes"]
    assert [each["name"] for each in found] == ["a", "b"]
    assert found[0]["probability"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert found[1]["behind"] == pytest.approx(1)
    assert found[1]["error"] == pytest.approx(0)


def test_prompts_are_ranked(serve, stable):
    client = serve({"stable": str(stable)})
    asked = {"model": "stable", "prompts": ["red cat", " ", "dog", "dog"]}
    events = ask(client, "classify", asked, [picture("image", (16, 16))])
    assert {each["name"] for each in of_type(events, "ranking")[-1]["classes"]} == {
        "red cat",
        "dog",
    }
    (refused,) = ask(client, "classify", {**asked, "prompts": ["a"] * 3 + ["b" * 501]}, [IMAGE])
    assert "501 characters" in refused["error"]
    one = ask(client, "classify", {**asked, "prompts": ["dog"]}, [IMAGE])
    assert "at least two prompts" in one[-1]["message"]


def test_the_chain_of_a_picture(serve, model, x_0):
    """The costs are the divergences of normals, the pictures those of the chain."""
    events = ask(serve(), "process", {"model": "digits", "frames": 20, "seed": 2}, [IMAGE])
    assert events[-1] == {"type": "done"}
    frames = [frame for event in of_type(events, "frames") for frame in event["frames"]]
    assert [frame["t"] for frame in frames] == list(range(1, 21))
    noise = torch.randn(x_0.shape, generator=generator_for(2, 9))
    for t in (5, 20):
        frame = frames[t - 1]
        signal = model.schedule.alphas_cumprod[t].item()
        x_t = math.sqrt(signal) * x_0 + math.sqrt(1 - signal) * noise
        with torch.no_grad():
            q, p = model.q_posterior(x_t, x_0, t), model.p_step(x_t, t)
        bits = kl_divergence(q, p).sum().item() / (64 * math.log(2))
        assert frame["bits"] == pytest.approx(bits, rel=1e-4)
        shown = Image.open(io.BytesIO(base64.b64decode(frame["x_t"].partition(",")[2])))
        levels = ((x_t[0, 0] + 1) * 8).round().clamp(0, 16)
        assert np.array_equal(np.asarray(shown), (levels * (255 / 16)).round().numpy())


@pytest.mark.parametrize(
    ("task", "settings", "files", "message"),
    [
        ("evaluate", {}, [], "the picture is missing"),
        ("evaluate", {"error": 0}, [IMAGE], "error must lie in 0.001..10"),
        ("evaluate", {"prompt": "a cat"}, [IMAGE], "digits reads none"),
        ("evaluate", {"label": "x"}, [IMAGE], "has no class 'x'"),
        ("evaluate", {}, [picture("image")] * 17, "at most 16"),
        ("process", {}, [IMAGE, IMAGE], "2 pictures were given, at most 1"),
        ("edit", {}, [IMAGE, IMAGE], "one picture is taken"),
        ("open", {"model": None}, [], "no model was named: served are digits"),
        ("rank", {}, [], "bits is missing"),
        ("process", {"frames": 1}, [IMAGE], "frames must lie in 2.."),
        ("families", {"comparison": "../x"}, [], "no comparison '../x' is served"),
    ],
)
def test_mistakes(serve, task, settings, files, message):
    event = ask(serve(), task, {"model": "digits", **settings}, files)[-1]
    assert message in (event.get("error") or event["message"])


def test_a_picture_that_is_cut_short_is_an_error_in_the_page(serve):
    client = serve()
    whole = picture("image", (64, 64))[1][1]
    cut = [("image", ("cut.png", whole[: len(whole) // 2], "image/png"))]
    assert (
        "cut.png cannot be read" in ask(client, "evaluate", {"model": "digits"}, cut)[-1]["message"]
    )
    assert ask(client, "open", {"model": "digits"})[-1] == {"type": "done"}


def test_a_model_without_a_chain_is_exact_and_draws_in_one_call(serve, x_0, tmp_path):
    markov = MarkovModel(order=1).fit(load_data("digits", "train"))
    nelbo.save(markov, tmp_path / "markov", notes={"source": "digits"})
    client = serve({"markov": str(tmp_path / "markov")})
    assert len(of_type(ask(client, "generate", {"model": "markov", "n": 2}), "picture")) == 2
    events = ask(client, "evaluate", {"model": "markov"}, [IMAGE])
    (found,) = of_type(events, "estimate")
    assert (found["kind"], found["error"], found["final"]) == ("exact", 0, True)
    assert found["bits"] == pytest.approx(float(markov.evidence(x_0).bits_per_dim), rel=1e-5)
    (archive,) = of_type(events, "archive")
    levels = ((x_0 + 1) * 8).round().byte()
    assert archive["bytes"] == len(compress(markov, levels))
    assert "no chain" in ask(client, "process", {"model": "markov"}, [IMAGE])[-1]["message"]


def test_the_table_of_a_comparison(serve, tmp_path):
    """From the files of `nelbo compare --budget`: the best bound first, none last."""
    (tmp_path / "figures").mkdir()
    samples = torch.arange(4 * 64).reshape(4, 1, 8, 8).remainder(17).byte()
    judged = dict.fromkeys((each.name for each in fields(Likeness)), 0.5) | {"frechet": 3.0}
    for family, kind, bits in (("ppca", "bound", (3.0, 4.0)), ("hmm", "exact", (2.0, 2.5))):
        for seed in (0, 1):
            figures = Figures(
                family=family,
                seed=seed,
                kind=kind,
                bits=tuple(bit + seed for bit in bits),
                monte_carlo_error=0.0,
                quality={space: {"samples": judged, "real": judged} for space in SPACES},
                modes=dict.fromkeys((each.name for each in fields(Modes)), 20),
                sample_seconds=0.1,
                parameters=10,
                steps=1,
                passes=1.0,
                seconds=1.0,
                choice="",
                **packed(samples),
            )
            write_json(tmp_path / "figures" / f"{family}-{seed}.json", figures.to_json())
    client = serve(comparisons={"all": partial(standings_of, tmp_path)})
    assert client.get("/api/studio").json()["comparisons"] == ["all"]
    (found,) = of_type(ask(client, "families", {"comparison": "all"}), "families")
    assert [row["title"] for row in found["rows"]] == ["HMM", "PPCA"]
    row = found["rows"][0]
    assert row["bits"] == pytest.approx(np.mean([2.0, 2.5, 3.0, 3.5]))
    # Over images the spread of 2.5 and 3.0, over seeds that of 2.25 and 3.25, each by √2.
    assert row["error"] == pytest.approx(np.std([2.5, 3.0], ddof=1) / math.sqrt(2))
    assert row["over_seeds"] == pytest.approx(np.std([2.25, 3.25], ddof=1) / math.sqrt(2))
    assert (row["distance"], row["count"], row["kind"]) == (3.0, 4, "exact")
