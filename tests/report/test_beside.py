"""What stands beside a model's figures in report and card, and which settings are shown."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.base.files import to_json
from nelbo.chain.estimate import Estimate
from nelbo.data import ImageData
from nelbo.diffusion.objectives import SHIFTED
from nelbo.evidence.file_sizes import file_sizes
from nelbo.evidence.given import Given
from nelbo.evidence.sample_reading import read_samples
from nelbo.report import fragments, map_plots
from nelbo.report.autoencoder_report import nats, share_of_values
from nelbo.report.beside import (
    file_bars,
    nearest_line,
    quality_rows,
    quality_section,
    quality_table,
)
from nelbo.report.model_card import measured_sections, model_card
from nelbo.report.page import render
from nelbo.report.ranking_page import RankingReport, ranking_page
from nelbo.report.tables import bound_json
from nelbo.report.training_facts import (
    passes,
    run_settings,
    settings_that_apply,
    training_facts,
)
from nelbo.report.validation_trend import validation_trend
from nelbo.runs.checkpoints import VALIDATION
from tests.report.examples import make_bound, make_images, make_model
from tests.report.test_page import make_report, read


def make_data(n: int, seed: int = 0) -> ImageData:
    names = tuple(f"folder/{seed}-{i}.png" for i in range(n))
    return ImageData("digits", make_images(n, seed=seed), 17, names)


@pytest.fixture(scope="module")
def reading():
    return read_samples(make_images(12, seed=5), make_data(40, 6), make_data(8, 7))


def text_of(html: str) -> str:
    return " ".join("".join(read(html).text).split())


def test_bars_stand_in_order_and_name_what_they_are():
    files = file_sizes(make_images(9), 17)
    html = file_bars(Estimate(3.25, 0.1), files, "test pictures")
    rows = re.findall(r"<dt>([^<]*)</dt>.*?width: ([\d.]+)%.*?<b>([\d.]+)</b>", html)
    values = {name: float(value) for name, _, value in rows}
    assert values["this model"] == 3.25
    assert values["as they are"] == pytest.approx(math.log2(17), abs=1e-3)
    assert values["PNG"] == pytest.approx(files.shown["PNG"].mean, abs=1e-3)
    assert values["PNG, one file"] == pytest.approx(files.together["PNG"], abs=1e-3)
    ordered = [float(value) for _, _, value in rows[:-1]]
    assert ordered == sorted(ordered)
    assert rows[-1][0] == "as they are"
    widths = [float(width) for _, width, _ in rows]
    assert max(widths) == 100
    for (_, width, value), widest in zip(rows, [max(values.values())] * len(rows), strict=True):
        assert float(width) == pytest.approx(100 * float(value) / widest, abs=0.05)
    assert file_bars(Estimate(3.25, 0.1), None, "test pictures") == ""


def test_quality_shows_every_figure_beside_that_of_real_pictures(reading):
    html = quality_section(reading)
    text = text_of(html)
    assert "12 samples against 40 training pictures; beside them 12 real pictures" in text
    for space in reading.spaces:
        assert space.space in text
    shown = re.findall(r"<tr><th scope=\"row\">([^<]*)</th>(.*?)</tr>", html)
    assert [name for name, _ in shown] == [
        *("Fréchet distance", "extrapolated", "kernel distance"),
        *("precision", "recall", "density", "coverage"),
    ]
    precision = re.findall(r"<td>([\d.]+)</td>", dict(shown)["precision"])
    expected = [getattr(s, k).precision for s in reading.spaces for k in ("samples", "real")]
    assert [float(value) for value in precision] == pytest.approx(expected, abs=5e-4)
    # Each pair is a sample and a training picture that is named.
    assert html.count("<img") == 2 * 8
    for name in reading.pairs.names:
        assert f'alt="training picture {name}"' in html
    assert quality_section(None) == ""
    table = quality_table(reading)
    assert table.row_count == 2 * 8


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (25.43, 1.204, "25.4 ± 1.2"),
        (2.5432, 0.1204, "2.54 ± 0.12"),
        (0.1234, 0.0456, "0.123 ± 0.046"),
        # Where the error would be zero, with the decimals that show it.
        (25.43, 0.0342, "25.430 ± 0.034"),
        (0.1234, 0.0002, "0.123 ± 2×10⁻⁴"),
        (25.43, math.nan, "25.4"),
        (math.nan, math.nan, "—"),
    ],
)
def test_figures_of_samples_and_their_errors_have_the_same_decimals(reading, value, error, text):
    (space, *_) = reading.spaces
    for name, title in (("frechet", "Fréchet distance"), ("kernel", "kernel distance")):
        samples = replace(space.samples, **{name: value, f"{name}_error": error})
        rows = {row[0]: row[1] for row in quality_rows(replace(space, samples=samples))}
        assert rows[title] == text


def test_copies_are_seen():
    train = make_data(40, 6)
    copied = read_samples(train.images[:12].flip(-1), train, make_data(8, 7))
    assert copied.pairs.distances == (0.0,) * 8
    assert "100% of the samples are nearer" in nearest_line(copied)
    assert torch.equal(copied.pairs.samples, copied.pairs.nearest)
    without = read_samples(make_images(12, seed=5), train)
    assert "held-out" not in nearest_line(without)
    assert read_samples(make_images(1), train) is None
    assert read_samples(make_images(12), train.take(slice(3))) is None


def test_the_page_holds_files_quality_and_classes(reading):
    report = make_report(
        files=file_sizes(make_images(9), 17),
        reading=reading,
        names=["three", "", "seven", "<four>"],
    )
    html = render(report)
    text = text_of(html)
    for expected in ("Beside image files", "How good the samples are", "Nearest training pictures"):
        assert expected in text
    assert 'alt="image that the model drew 1: three"' in html
    assert 'alt="image that the model drew 2"' in html
    assert 'title="&lt;four&gt;"' in html
    assert "the class that was asked for" in text


def test_every_image_of_the_page_has_words_of_its_own(reading):
    html = render(make_report(reading=reading, files=file_sizes(make_images(9), 17)))
    words = [value for tag, name, value in read(html).attributes if (tag, name) == ("img", "alt")]
    assert words
    assert all(words)


def test_long_names_keep_their_start_and_their_end():
    name = "holidays/2019-08-12/a-very-long-name-of-a-picture-0031.png"
    html = fragments.short_name(name)
    shown = text_of(html)
    assert len(shown) == 24
    assert shown.startswith("holida")
    assert shown.endswith("0031.png")
    assert f'title="{name}"' in html
    assert text_of(fragments.short_name("short_name.png")) == "short_name.png"
    assert "short_<wbr>name.<wbr>png" in fragments.short_name("short_name.png")


def test_one_costly_pixel_does_not_darken_the_maps():
    maps = torch.ones(4, 10, 10) * math.log(2)
    maps[0, 0, 0] = 100 * math.log(2)
    colors, brightest = map_plots.heat(maps)
    assert brightest == pytest.approx(1.0)
    # The others are at the bright end, which the costly one shares.
    assert torch.equal(colors[1, :, 5, 5], colors[0, :, 0, 0])
    _, highest = map_plots.heat(maps[:1, :5, :5])  # 1 of 25 is more than 1%
    assert highest == pytest.approx(100.0)


def test_the_ranking_links_to_files_that_are_there(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "0.png").touch()
    names = ("a b/0.png", *(f"gone-{i}.png" for i in range(4)))
    data = ImageData(str(tmp_path), make_images(5), 17, names)
    report = RankingReport(
        "run", data, make_bound(5), torch.tensor([0, 1]), torch.tensor([2]),
        Given("", 0, 5), files=file_sizes(data.images, 17),
    )  # fmt: skip
    html = ranking_page(report)
    links = {value for tag, name, value in read(html).attributes if (tag, name) == ("a", "href")}
    assert links == {(tmp_path / "a b" / "0.png").as_uri()}
    assert "a%20b" in next(iter(links))
    assert "Beside image files" in html
    mean = report.bound.mean().bits_per_dim
    assert f"{mean.mean:.3f} ± {mean.standard_error:.3f} bits/dim on average" in html


NOTES = {
    "training_images": 897,
    "hardware": "A processor",
    "trained": {"steps": 1402, "seconds": 480.0, "precision": "bf16", "threads": 2},
    "settings": {"training": {"batch_size": 64}},
}


def test_facts_tell_passes_and_hardware():
    assert passes(NOTES) == pytest.approx(1402 * 64 / 897)
    facts = training_facts(NOTES, [])
    assert facts == {
        "training": "1,402 steps in 8 min",
        "passes over the data": "100 (897 pictures)",
        "computed on": "A processor, 2 threads, bf16",
    }
    assert passes({**NOTES, "training_images": None}) is None
    few = {**NOTES, "trained": {"steps": 5, "seconds": 1.0}}
    assert training_facts(few, [])["passes over the data"] == "0.4 (897 pictures)"
    assert training_facts({}, []) == {}


@pytest.mark.parametrize(
    ("last", "words", "advice"),
    [
        ((-0.05, 0.01), "still falls, by 0.050 ± 0.010 bits/dim since step 10", "longer run"),
        ((0.05, 0.01), "rises, by 0.050 ± 0.010 bits/dim since step 10", "shorter run"),
        ((-0.01, 0.01), "no longer falls (it has changed by 0.010 ± 0.010", ""),
        ((-0.01, None), "still falls, by 0.010 bits/dim since step 10", "longer run"),
        ((-0.004, None), "no longer falls (it has changed by 0.004 bits/dim", ""),
    ],
)
def test_whether_validation_still_falls(last, words, advice):
    change, error = last
    row = {"step": 30, VALIDATION: 3.1, "since": 10, "change": change, "change_error": error}
    rows = [{"step": 10, VALIDATION: 3.0}, {"step": 20, VALIDATION: 3.0}, {"step": 25}, row]
    found = validation_trend([*rows, {"step": 99, VALIDATION: None}])
    assert found.phrase.startswith(words)
    assert advice in found.sentence
    older = {name: value for name, value in row.items() if name != "since"}
    assert "since step 20" in validation_trend([*rows[:3], older]).phrase
    assert validation_trend(rows[:3]) is None
    assert validation_trend([row]) is None
    assert validation_trend([]) is None


def test_only_settings_that_apply_are_shown():
    training = {
        "objective": "bound",
        "snr_gamma": 5.0,
        "sigmoid_bias": 2.0,
        "level_shift": 1.0,
        "balance": "none",
        "balance_power": 0.5,
        "steps": None,
        "compile": False,
        "gradient_accumulation": 1,
        "input_perturbation": 0.0,
        "label_dropout": 0.1,
        "seed": 0,
    }
    model = {"class_conditional": False, "clip_sample": False, "dropout": 0.0}
    shown = settings_that_apply({"training": training, "model": model})
    assert shown == {
        "training": {"objective": "bound", "seed": 0},
        "model": {"clip_sample": False, "dropout": 0.0},
    }
    other = {**training, "objective": "min_snr", "balance": "labels", "compile": True}
    told = settings_that_apply({"training": other, "model": {"class_conditional": True}})
    assert set(told["training"]) == {
        *("objective", "snr_gamma", "balance", "balance_power"),
        *("compile", "label_dropout", "seed"),
    }
    for objective in SHIFTED:
        shifted = settings_that_apply({"training": {**training, "objective": objective}})
        assert "level_shift" in shifted["training"]


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("text", {"condition", "text_width", "guidance"}),
        ("label", {"condition", "guidance"}),
        ("none", {"condition"}),
    ],
)
def test_a_condition_that_the_images_decide_decides_on_its_settings(condition, shown):
    model = {"condition": "auto", "text_width": 192, "guidance": 2.0, "recoloured": 0.2}
    notes = {"settings": {"training": {"label_dropout": 0.1}, "model": model}}
    told = run_settings(notes, condition=condition, channels=1)
    assert set(told["model"]) == shown
    assert told["model"]["condition"] == condition
    assert ("training" in told) is (condition != "none")
    assert "recoloured" in run_settings(notes, channels=3)["model"]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"schedule": "flow_matching"}, True),
        ({"schedule": None, "prediction": "velocity"}, True),
        ({"schedule": "cosine", "prediction": "velocity"}, False),
        ({"schedule": None, "prediction": "v_prediction"}, False),
    ],
)
def test_the_shift_is_of_flow_matching(model, shown):
    assert ("shift" in settings_that_apply({"model": {**model, "shift": 1.0}})["model"]) is shown


def test_classes_of_samples_are_mentioned_without_real_images():
    page = render(make_report(real=None, names=["zero", "one", "two", "three"]))
    assert "What the model draws. Below each sample is the class that was asked for." in page
    assert "What the model draws.<" in render(make_report(real=None))


@pytest.mark.parametrize(
    ("latents", "values", "words"),
    [
        (128, 64, "2 times the values"),
        (64, 64, "as many as the values"),
        (512, 3072, "1/6 of the values"),
        (96, 64, "1.5 times the values"),
    ],
)
def test_latents_beside_the_values_of_an_image(latents, values, words):
    assert share_of_values(latents, values) == words


@pytest.mark.parametrize(("cost", "words"), [(0.361, "0.36"), (1.07, "1.1"), (123.4, "123")])
def test_nats_of_a_channel(cost, words):
    assert nats(cost) == f"{words} nats"


def edited(content, values):
    """A structure of JSON with each of its parts replaced by each of some values, or removed."""
    if not isinstance(content, dict | list):
        return
    for place, part in content.items() if isinstance(content, dict) else enumerate(content):
        for value in [*values, *edited(part, values)]:
            again = copy.copy(content)
            again[place] = value
            yield again
        again = copy.copy(content)
        del again[place]
        yield again


def test_figures_that_were_edited_make_a_card_or_one_error(reading):
    sizes = file_sizes(make_images(9), 17)
    evaluation = {
        "test": {**bound_json(make_bound().mean()), "files": sizes.to_json()},
        "samples": {**reading.to_json(), "steps": 20},
    }
    model, refused = make_model(), []
    # The last is beyond all floats.
    for changed in edited(json.loads(to_json(evaluation)), [None, "2", [], {}, 10**400]):
        try:
            measured_sections(model, changed)
        except NelboError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("no figures of a run" in message for message in refused)


def test_the_card_has_files_and_samples_beside_the_bound(reading):
    sizes = file_sizes(make_images(9), 17)
    evaluation = {
        "test": {**bound_json(make_bound().mean()), "files": sizes.to_json()},
        "samples": {**reading.to_json(), "steps": 20},
    }
    model = make_model()
    measured = measured_sections(model, evaluation)
    card = model_card("x", model, {}, measured, None, pipeline="DDPMPipeline")
    assert f"lossless WebP {sizes.shown['WebP'].mean:.3f}" in card
    assert f"all in one file: PNG {sizes.together['PNG']:.3f}" in card
    assert "4.087 as they are (bits/dim)" in card
    space = reading.spaces[0]
    assert f"| recall | {space.samples.recall:.3f} | {space.real.recall:.3f} |" in card
    assert "| Fréchet distance |" in card
    assert "nearest training picture" in card
    assert "| term | test, bits/dim |" in card
