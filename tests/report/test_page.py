import dataclasses
import math
import re
from html import unescape
from html.parser import HTMLParser

import pytest
import torch

from nelbo.base.errors import NelboError
from nelbo.data import ImageData
from nelbo.evidence.explained import CONTROL, NOTHING, SHUFFLED, Explained
from nelbo.report.page import render, write_html
from nelbo.report.run_report import RunReport
from nelbo.report.strips import forward_strip, reverse_strip
from nelbo.runs.checkpoints import VALIDATION
from tests.report.examples import make_bound, make_images, make_metrics, make_model

VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}
HOSTILE = "<script>alert('1')</script> & \"$title\" é"


class Reader(HTMLParser):
    """Checks that tags balance, and keeps attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def make_report(metrics=(), **changes):
    model = make_model(levels=changes.pop("model_levels", 17))
    images = make_images(5)
    g = torch.Generator().manual_seed(0)
    report = RunReport(
        title="Digits",
        model=model,
        real=images,
        samples=make_images(4, seed=1),
        bounds={"train": make_bound(7), "test": make_bound(5)},
        subtitle="a subtitle",
        facts={"training": "2 min"},
        forward=forward_strip(model, images[:2].float() / 8 - 1, 4, g),
        reverse=reverse_strip(model, 2, 4, g),
        evaluated=ImageData("digits", images, 17, tuple(f"digits #{i}" for i in range(5))),
        metrics=metrics,
        settings={"training": {"learning_rate": 0.0002, "time_budget_seconds": 120}, "seed": 1},
    )
    return dataclasses.replace(report, **changes)


def test_validation_is_plotted_where_there_was_any(html):
    rows = [row | {VALIDATION: 3.0} if row["step"] % 40 == 0 else row for row in make_metrics()]
    validated = render(make_report(rows))
    for page, expected in ((html, False), (validated, True)):
        assert ("read from the averaged weights" in page) is expected
        assert (">validation<" in page) is expected


@pytest.fixture(scope="module")
def report():
    return make_report(make_metrics())


@pytest.fixture(scope="module")
def html(report):
    return render(report)


def test_the_page_needs_nothing_else(html, tmp_path):
    path = tmp_path / "run" / "report.html"
    write_html(html, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    reader = read(html)
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:50])
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", html))
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)


def test_identities_are_unique_and_references_resolve(html):
    reader = read(html)
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = [value[1:] for _, name, value in reader.attributes if name == "href"]
    assert used
    assert set(used) <= set(ids)


def test_every_image_says_what_it_is_or_belongs_to_a_group_that_does(html):
    reader = read(html)
    images = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "alt")]
    assert len(images) == reader.tags.count("img")
    groups = [value for _, name, value in reader.attributes if name == "aria-label"]
    assert all(groups)
    assert len(groups) >= 2 + 2 + 1 + 5  # panels, strips, bar, plots


def test_every_table_scrolls_where_the_page_is_narrow():
    explained = Explained(dict.fromkeys((NOTHING, CONTROL, SHUFFLED), make_bound(5)), 12)
    html = render(make_report(explained=explained))
    assert html.count("<table>") == html.count('<div class="scroll"><table>') == 2


def test_the_page_holds_each_number(report, html):
    text = " ".join("".join(read(html).text).split())
    for summary in report.summaries.values():
        for estimate in summary.in_bits.values():
            assert f"{estimate.mean:.3f}± {estimate.standard_error:.3f}" in text
        assert f"{summary.nelbo.mean:.2f}±" in text
    bound = report.bounds["test"]
    for i in (int(bound.bits_per_dim.argmin()), int(bound.bits_per_dim.argmax())):
        error = bound.monte_carlo_variance[i].sqrt() / (bound.dims * math.log(2))
        assert f"{bound.bits_per_dim[i]:.2f} ± {error:.2f}digits #{i}" in text
    for expected in ("0.0002", "2 min", "level", "noise", "a subtitle", "12 levels"):
        assert expected in text


def test_hostile_text_stays_text():
    split = "te<st>"
    report = make_report(
        title=HOSTILE,
        subtitle=HOSTILE,
        facts={HOSTILE: HOSTILE},
        settings={HOSTILE: {HOSTILE: HOSTILE}},
        bounds={split: make_bound(5)},
        evaluated=ImageData("x", make_images(5), 17, (HOSTILE,) * 5),
    )
    html = render(report)
    reader = read(html)
    assert "<script" not in html
    assert unescape(HOSTILE) in "".join(reader.text)
    assert split in "".join(reader.text)


@pytest.mark.parametrize(
    "changes",
    [
        {"forward": None, "reverse": None, "evaluated": None, "settings": {}, "facts": {}},
        {"bounds": {}, "evaluated": None},
        {"bounds": {"train": make_bound(3)}, "evaluated": None},
        {"bounds": {"test": make_bound(1)}, "evaluated": None},
        {"samples": make_images(0)},
        {"real": make_images(3, 17, (3, 90, 150)), "samples": make_images(1, 17, (3, 90, 150))},
    ],
)
def test_parts_may_be_missing(changes):
    read(render(make_report(**changes)))


def test_one_image():
    data = ImageData("digits", make_images(1), 17, ("only",))
    report = make_report(bounds={"test": make_bound(1)}, evaluated=data)
    text = "".join(read(render(report)).text)
    assert "only" in text
    assert "nan" not in text


def test_a_density_is_labelled_and_may_be_negative():
    report = make_report(model_levels=None, bounds={"test": make_bound(5, sign=30.0)})
    html = render(report)
    read(html)
    assert "bits/dim (density)" in html
    assert "ideal coder" not in html
    assert 'class="zero"' in html
    assert "bits/dim (density)" not in render(make_report())


def test_the_images_must_be_those_of_the_bound():
    with pytest.raises(NelboError, match="in their order"):
        make_report(bounds={"test": make_bound(4)})


def test_the_page_is_the_same_every_time(html):
    assert render(make_report(make_metrics())) == html


def test_a_bound_above_the_pixels_as_they_are_is_marked():
    # Two levels a pixel take one bit; this bound costs more.
    coarse = {"real": make_images(5, 2), "samples": make_images(4, 2), "evaluated": None}
    html = render(make_report(model_levels=2, bounds={"test": make_bound(5, dims=20)}, **coarse))
    mark = re.search(r'class="mark" style="left: ([\d.]+)%"><span>([^<]*)<', html)
    assert mark is not None
    bits = make_bound(5, dims=20).mean().bits_per_dim.mean
    assert bits > 1
    assert float(mark[1]) == pytest.approx(100 / bits, abs=1e-3)
    assert "the pixels as they are" in mark[2]
    assert 'class="mark"' not in render(make_report())


def test_without_images_that_are_told_apart_none_is_named():
    html = render(dataclasses.replace(make_report(), closer=()))
    assert "No images are named as the least or the most surprising" in html
    assert "Most surprising" not in html
    assert "Histogram of bits per dimension over images" in html


def test_maps_go_under_the_least_and_most_surprising_images():
    report = make_report()
    least, most = report.extremes()
    bits = report.bound.bits_per_dim
    assert bits[least].tolist() == sorted(bits.tolist())[:2]
    assert bits[most].tolist() == sorted(bits.tolist(), reverse=True)[:2]
    shown = report.evaluated.take(torch.cat([least, most]))
    x_0 = report.model.data.to_network(shown.images)
    maps = report.model.bound_map(x_0, levels=2, generator=torch.Generator().manual_seed(0))
    with_maps = read(render(dataclasses.replace(report, maps=maps)))
    without = read(render(report))
    assert with_maps.tags.count("img") == without.tags.count("img") + 4
    assert "where its bits go" in " ".join(with_maps.text)
    assert "where its bits go" not in " ".join(without.text)
