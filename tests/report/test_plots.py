import dataclasses
import math
from xml.etree import ElementTree

import matplotlib
import pytest
import torch

from nelbo.diffusion import NoiseSchedule
from nelbo.report import plots, training_plots
from nelbo.report.theme import COLORS, to_inline_svg
from tests.report.examples import make_bound, make_model


def sampled(bound):
    """The same with only a few levels evaluated."""
    return dataclasses.replace(
        bound,
        score_matching=bound.score_matching[:, :2],
        levels=bound.levels[:, :2],
        weights=torch.full((len(bound), 2), bound.levels.shape[1] / 2),
    )


def no_levels():
    """T = 1: no score matching at all."""
    return dataclasses.replace(
        make_bound(3, 2),
        score_matching=torch.zeros(3, 0),
        levels=torch.zeros(3, 0, dtype=torch.int64),
        weights=torch.zeros(3, 0),
    )


BOUNDS = {
    "both": {"train": make_bound(7), "test": make_bound(5)},
    "one image": {"test": make_bound(1)},
    "T = 2": {"test": make_bound(4, 2)},
    "T = 1": {"test": no_levels()},
    "long chain": {"test": make_bound(2, 1000)},
    "few levels": {"train": sampled(make_bound(7)), "test": make_bound(5)},
    "density": {"test": make_bound(5, sign=3.0)},
    "perfect": {"test": dataclasses.replace(make_bound(3), score_matching=torch.zeros(3, 11))},
    "none": {},
}


def draws(figure):
    """Draws the figure as a page has it, which must be XML."""
    ElementTree.fromstring(to_inline_svg(figure, "figure", "what it shows"))


def _is_every_level(bound):
    return bool((bound.weights == 1).all())


@pytest.mark.parametrize("name", BOUNDS)
def test_plots_of_the_bound_draw(name):
    bounds = BOUNDS[name]
    by_level, spent = plots.kl_by_level(bounds), plots.cumulative_bound(bounds)
    for figure in (by_level, spent):
        draws(figure)
    unit = {split: bound.nats_per_bit_per_dim for split, bound in bounds.items()}
    drawn = [line for line in by_level.axes[0].lines if len(line.get_xdata()) > 1]
    whole = {s: b for s, b in bounds.items() if b.levels.shape[1] > 1 and _is_every_level(b)}
    for split, bound in whole.items():
        expected = (bound.score_matching.double().mean(0) / unit[split]).tolist()
        if len(expected) <= 72 and max(expected) > 0:
            assert any(
                list(line.get_ydata()) == pytest.approx(expected, rel=1e-4) for line in drawn
            ), split
    if bounds:
        draws(histogram := plots.bits_histogram(bounds["test"]))
        heights = [bar.get_height() for bar in histogram.axes[0].patches]
        assert sum(heights) == len(bounds["test"])
        heights = [line.get_ydata()[-1] for line in spent.axes[0].lines if len(line.get_ydata())]
        total = bounds["test"].mean().bits_per_dim.mean
        assert any(height == pytest.approx(total, rel=1e-4) for height in heights)


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule.geometric(100),
        NoiseSchedule.linear(1),
        NoiseSchedule.geometric(12).with_zero_terminal_snr(),
        NoiseSchedule.from_betas([1.0]),
    ],
    ids=["long", "T = 1", "no signal at the end", "no signal at all"],
)
def test_a_noise_schedule_is_drawn_where_it_has_signal_and_noise(schedule):
    figure = plots.noise_schedule(schedule)
    draws(figure)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "this chain")
    expected = schedule.log_snr[1:][schedule.alphas_cumprod[1:] > 0]
    assert line.get_ydata().tolist() == expected.tolist()
    assert line.get_xdata().tolist() == list(range(1, len(expected) + 1))


def test_the_drawn_line_is_the_mean_cost_of_each_level():
    bound = make_bound(5)
    line = plots.kl_by_level({"test": bound}).axes[0].lines[0]
    assert line.get_xdata().tolist() == list(range(2, 13))
    expected = bound.score_matching.double().mean(0) / (64 * math.log(2))
    assert line.get_ydata() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("bound", [make_bound(5), sampled(make_bound(5)), no_levels()])
def test_spending_ends_at_the_bound(bound):
    levels, spent = plots.spent_by_level(bound)
    assert levels[0] == 1
    assert spent[-1] == pytest.approx(bound.mean().bits_per_dim.mean)


def test_half_of_a_cost_is_spent_somewhere_and_half_of_a_gain_is_not():
    half = plots.half_spent_level(make_bound(5))
    assert half is not None
    assert 1 <= half <= 12
    assert plots.half_spent_level(make_bound(5, sign=3.0)) is None


ROWS = {
    "none": [],
    "one": [{"step": 1, "seconds": 0.1, "loss": 1.0, "bits_per_dim": 5.0}],
    "nan": [{"step": 1, "loss": math.nan, "bits_per_dim": None}, {"step": 2, "loss": 2.0}],
    "negative": [{"step": s, "seconds": s, "loss": -s, "bits_per_dim": -1.0} for s in range(99)],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("quantity", ["loss", "bits_per_dim", "learning_rate"])
def test_training_curves_draw(rows, quantity):
    figure = training_plots.training_curve(rows, quantity, reference=2.0)
    draws(figure)
    finite = [
        (row["step"], row[quantity])
        for row in rows
        if row.get(quantity) is not None and "step" in row and math.isfinite(row[quantity])
    ]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(finite)]
    if finite:
        drawn = [list(map(tuple, line.get_xydata().tolist())) for line in lines]
        assert [tuple(map(float, point)) for point in finite] in drawn
    else:
        # Nothing is drawn but words that tell so.
        assert any(text.get_text() for text in figure.axes[0].texts)


def test_a_training_curve_goes_through_its_rows(metrics):
    line = training_plots.training_curve(metrics, "loss").axes[0].lines[0]
    assert line.get_ydata().tolist() == [row["loss"] for row in metrics]


def test_readings_of_the_bound_are_points_beside_the_training_curve(metrics):
    read = {40: 9.0, 80: 5.0, 119: 3.5}
    rows = [row | ({"v": read[row["step"]]} if row["step"] in read else {}) for row in metrics]
    axes = training_plots.training_curve(rows, "bits_per_dim", validation="v").axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training", "validation"]
    points = axes.lines[-1].get_xydata().tolist()
    assert points == [[float(step), bits] for step, bits in read.items()]
    assert training_plots.training_curve(rows, "bits_per_dim").axes[0].get_legend() is None
    draws(training_plots.training_curve(metrics, "bits_per_dim", validation="v"))


def test_a_histogram_counts_every_image():
    figure = plots.bits_histogram(make_bound(50))
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 50


def test_figures_come_as_themed_svg():
    figure = plots.kl_by_level({"test": make_bound(5)})
    svg = to_inline_svg(figure, "one", "a <plot>".replace("<", "&lt;").replace(">", "&gt;"))
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == "a <plot>"
    assert "var(--score-matching)" in svg
    assert not any(color in svg for color in COLORS.values())
    assert "<style" not in svg
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)


def test_drawing_leaves_no_global_state():
    before = dict(matplotlib.rcParams)
    to_inline_svg(plots.kl_by_level({"test": make_bound(5)}), "a", "b")
    assert dict(matplotlib.rcParams) == before


def test_a_real_bound_draws():
    model = make_model()
    x_0 = model.data.to_network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with torch.no_grad():
        bound = model.elbo(x_0, generator=torch.Generator().manual_seed(0))
    figure = plots.kl_by_level({"test": bound})
    draws(figure)
    line = figure.axes[0].lines[0]
    assert line.get_xdata() == pytest.approx(list(range(2, model.num_levels + 1)))
    expected = bound.score_matching.double().mean(0) / (64 * math.log(2))
    assert line.get_ydata() == pytest.approx(expected.tolist(), rel=1e-5)
