"""Every picture comes back bit for bit, in about as many bits as the bound says."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo import Condition, NelboError, Pixels, coding
from nelbo.coding.arithmetic import exp
from nelbo.coding.conditions import captioned, conditions_of
from nelbo.coding.container import Block, Container
from nelbo.coding.distributions import DrawnNormal, GridNormal, PixelNormal, Table
from nelbo.coding.names import packed, unpacked
from nelbo.coding.pictures import Beside, Tiling
from nelbo.coding.plan import Plan
from nelbo.coding.stack import Stack, noise
from nelbo.coding.turns import Turns
from nelbo.data import ImageData
from nelbo.families import MarkovModel
from tests.coding.models import Shrink, random_images, tiny
from tests.training.test_latents import text_model

SHAPES = [(1, 1, 1), (1, 3, 5), (3, 4, 2), (2, 1, 7)]


@pytest.mark.parametrize(
    ("levels", "shape"),
    [(2, (1, 1, 1)), (3, (1, 3, 5)), (4, (3, 4, 2)), (17, (2, 1, 7)), (256, (1, 3, 5))],
)
def test_every_picture_comes_back(levels, shape):
    model = tiny(levels, shape, seed=levels)
    images = random_images(5, model, seed=levels)
    archive = coding.compress(model, images, block=2, verify=False)
    back = coding.decompress(model, archive)
    assert back.dtype == torch.uint8
    assert torch.equal(back, images)


@pytest.mark.slow
def test_ten_thousand_pictures_come_back():
    done = 0
    for seed in range(100):
        levels = (2, 3, 5, 17, 64, 256)[seed % 6]
        model = tiny(levels, SHAPES[seed % 4], T=1 + seed % 7, seed=seed)
        images = random_images(100, model, seed)
        if seed % 3 == 0:  # noise, which the model expects nowhere
            images = torch.randint(0, levels, images.shape, dtype=torch.uint8)
        archive = coding.compress(model, images, block=1 + seed, verify=False)
        assert torch.equal(coding.decompress(model, archive), images)
        done += len(images)
    assert done == 10_000


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_every_variance(variance):
    model = tiny(variance=variance)
    images = random_images(3, model)
    assert torch.equal(coding.decompress(model, coding.compress(model, images)), images)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.float32, torch.float64])
def test_pictures_come_back_in_their_type(dtype):
    model = tiny()
    images = random_images(2, model)
    given = (model.data.to_network(images) if dtype.is_floating_point else images).to(dtype)
    back = coding.decompress(model, coding.compress(model, given))
    assert back.dtype == dtype
    assert torch.equal(back, given)


def test_pictures_of_other_sizes_are_tiled():
    model = tiny(256, (3, 4, 4))
    images = [
        torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in [(4, 4), (5, 9), (1, 2)]
    ]
    back = coding.decompress(model, coding.compress(model, images))
    assert [torch.equal(a, b) for a, b in zip(back, images, strict=True)] == [True] * 3


def test_a_far_picture_costs_but_comes_back():
    """What the model holds for impossible is far beyond every window."""
    model = tiny(256, (1, 4, 4), T=3)
    model.network.mix.weight.data.mul_(0)
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    images[0, 0, 1, 2] = 255
    assert torch.equal(coding.decompress(model, coding.compress(model, images)), images)


def test_the_length_is_the_bound():
    """A path's cost is unbiased for the bound, so many images' lengths are its sum, near enough."""
    model = tiny(17, (1, 4, 4), T=6)
    images = random_images(40, model)
    archive = coding.compress(model, images, verify=False)
    container = Container.from_bytes(archive)
    block = Block.from_bytes(container.blocks[0])
    bits = 32 * (len(block.words) - block.taken)
    model = model.double()
    chain = Plan.from_json(container.header["plan"]).applied(model)
    x_0 = model.data.to_network(images).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        paths = torch.stack([-chain.path_elbo(x_0, generator=generator) for _ in range(10)], 1)
    bound = paths.mean().item() / math.log(2) * len(images)
    spread = paths.std(1).square().sum().sqrt().item() / math.log(2)
    assert abs(bits - bound) < 4 * spread + 32 + 0.01 * bound


def test_names_labels_and_captions_of_image_data():
    model = tiny(17)
    images = random_images(3, model)
    data = ImageData("some", images, 17, ("a.png", "b.png", "c.png"))
    found = coding.read(model, coding.compress(model, data))
    assert found.names == ["a.png", "b.png", "c.png"]
    assert torch.equal(torch.stack(found.images), images)


def test_encoder_and_decoder_start_from_the_same_numbers(monkeypatch):
    """x_0 to the last bit, since its rounded means have no margin for a network's."""
    model, seen = tiny(256), {1: []}
    q_step = type(model).q_step

    def spied(self, x_prev, t):
        if len(x_prev) == len(images) and t == 1:
            seen[1].append(x_prev)
        return q_step(self, x_prev, t)

    images = random_images(1, model)
    monkeypatch.setattr(type(model), "q_step", spied)
    archive = coding.compress(model, images, verify=False)
    coding.decompress(model, archive)
    assert seen[1][-1].dtype == torch.float64
    assert torch.equal(seen[1][-2], seen[1][-1])


def test_names_pay_for_the_first_draws():
    """What is stored anyway lies on the stack first: fewer words of the ground are taken."""
    model = tiny(17)
    images, names = random_images(12, model), [f"picture with a name {i * i}" for i in range(12)]
    with_names, without = (
        Block.from_bytes(Container.from_bytes(a).blocks[0])
        for a in (coding.compress(model, images, names=names), coding.compress(model, images))
    )
    assert with_names.taken == 0 < without.taken
    assert unpacked(packed(names), 12) == names
    with pytest.raises(NelboError, match="not those that it was coded with"):
        unpacked(packed(names)[:-1], 12)


def test_names_of_several_blocks_and_tiles():
    model = tiny(256, (3, 4, 4))
    images = [torch.full((3, h, 5), 9, dtype=torch.uint8) for h in (4, 5, 9)]
    names = ["a.png", "\n", "grün.png"]
    found = coding.read(model, coding.compress(model, images, names=names, block=3))
    assert found.names == names


def test_a_condition_of_labels_is_kept():
    """A network of one's own, which names no classes, is given them too."""
    model = tiny()
    images = random_images(4, model)
    condition = nelbo.Condition(label=torch.tensor([0, 3, 1, 2]))
    archive, without = (
        coding.compress(model, images, condition=given) for given in (condition, None)
    )
    assert torch.equal(coding.decompress(model, archive), images)
    assert coding.contents(archive)["labels"] == [0, 3, 1, 2]
    assert Container.from_bytes(archive).blocks != Container.from_bytes(without).blocks


def test_a_control_is_given_again_and_is_that_of_each_picture():
    """Beside labels, which are stored; of pictures that take more than a tile each, too."""

    class Controlled(Shrink):
        def forward(self, x, time, condition=None):
            seen = super().forward(x, time, condition)
            return seen if condition is None else seen + condition.control[:, :1, :1, :1]

    model = tiny(17, (1, 4, 4)).replace(network=Controlled(1))
    sizes = [(4, 4), (5, 9), (8, 4)]
    images = [torch.full((1, *size), i) for i, size in enumerate(sizes, 4)]
    control = torch.linspace(-1, 1, 3).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    labels = torch.tensor([2, 0, 1])
    for condition in (Condition(control=control), Condition(label=labels, control=control)):
        archive = coding.compress(model, images, steps=2, condition=condition, verify=False)
        back = coding.decompress(model, archive, condition=condition)
        assert all(map(torch.equal, back, images))
        for other in (None, condition[torch.tensor([1, 0, 2])]):
            with pytest.raises(NelboError):
                coding.decompress(model, archive, condition=other)
        tiling = Tiling(sizes, (1, 4, 4))
        of_tiles = conditions_of(model, Beside(3, "int64", False), tiling, condition)
        expected = [0, *[1] * 6, 2, 2]
        for index in ([0], [8, 1, 0], list(range(9))):
            chosen = [expected[i] for i in index]
            assert torch.equal(of_tiles(index).control, control[chosen])


def test_a_caption_is_of_one_picture():
    model = text_model().eval()
    for caption, prompt in (("a square", "a square"), (None, "")):
        found = captioned(model, caption)
        torch.testing.assert_close(found.text, model.condition_on([prompt]).text)
    assert captioned(tiny(), None) is None
    with pytest.raises(NelboError, match="reads no text"):
        captioned(tiny(), "a square")


def test_an_estimate_is_of_what_the_archive_takes():
    """Of all pixels and not of tiles; what the first pictures draw is measured by coding them."""
    model = tiny(17, (1, 4, 4), T=6)
    alike = random_images(80, model)
    for images in (alike, [alike[0], alike[1].repeat(1, 2, 2)[:, :7, :6], *alike[2:60]]):
        found = coding.estimate(model, images, steps=4)
        dims = sum(each.numel() for each in images)
        assert found.bits_per_dim == pytest.approx(8 * found.bytes.mean / dims)
        assert found.steps == 4
        archive = coding.compress(model, images, steps=4, verify=False)
        block = Block.from_bytes(Container.from_bytes(archive).blocks[0])
        taken = 4 * (len(block.words) - block.taken)
        assert taken == pytest.approx(found.bytes.mean, abs=4 * found.bytes.standard_error)
        first = coding.compress(model, images[:6], steps=4, verify=False)
        draws = 4 * Block.from_bytes(Container.from_bytes(first).blocks[0]).taken
        assert abs(found.first_draws - draws) <= 8
    without = MarkovModel(1).fit(2 * alike / 16 - 1, data=Pixels(17))
    assert coding.estimate(without, alike).steps == 0


def test_exp():
    x = np.linspace(-200, 200, 4001)
    assert np.abs(exp(x) / np.exp(x) - 1).max() < 1e-11


def test_a_stack_gives_back_what_it_took():
    n = 300
    random = np.random.default_rng(0)
    codes = [
        GridNormal(random.normal(0, 1e4, n), random.uniform(0.1, 90, n)),
        DrawnNormal(random.normal(0, 1e4, n), random.uniform(0.1, 90, n), 1),
        DrawnNormal(np.zeros(n), random.uniform(0.1, 90, n), 2),
        PixelNormal(random.uniform(-40, 300, n), random.uniform(0.05, 90, n), 256),
        PixelNormal(random.uniform(-1, 2, n), random.uniform(0.05, 2, n), 2),
        Table(np.floor(random.uniform(0, 1, (n, 9)) ** 4 * 1000) + 1),
    ]
    stack = Stack()
    drawn_values = [code.pop(stack) for code in codes]
    for code, values in zip(reversed(codes), reversed(drawn_values), strict=True):
        code.push(stack, values)
    assert [len(stack.contents()[0]), stack.contents()[1]] == [0, 0]


def test_draws_are_random_whatever_was_pushed():
    """Here values at two standard deviations, all of them, whose bits are no noise."""
    n, size = 20_000, 20.0
    stack = Stack()
    GridNormal(np.zeros(n), np.full(n, 30.0)).push(stack, np.resize([60, -60], n))
    before, code = stack.contents(), DrawnNormal(np.zeros(n), np.full(n, size), 5)
    values = code.pop(stack)
    within_bins = values + np.random.default_rng(0).uniform(-0.5, 0.5, n)
    assert stats.kstest(within_bins / size, "norm").pvalue > 1e-3
    assert abs((values[1:] * values[:-1]).mean()) < 4 * size**2 / math.sqrt(n)
    code.push(stack, values)
    words, taken = stack.contents()
    assert np.array_equal(words, before[0])
    assert taken == before[1]


def test_no_word_that_a_stack_stands_on_is_zero():
    """The last word of a stack cannot be zero, which any of them may become."""
    assert noise(0, -(2**20), 0).all()


def test_values_far_from_the_mean_are_pushed():
    code = GridNormal(np.zeros(5), np.ones(5))
    values = np.array([0, 11, -12, 10**6, -(2**31) + 40])
    stack = Stack()
    code.push(stack, values)
    assert np.array_equal(code.pop(stack), values)
    assert [len(stack.contents()[0]), stack.contents()[1]] == [0, 0]


def test_the_length_of_a_pushed_pixel_is_that_of_its_bin():
    n, levels = 4000, 17
    random = np.random.default_rng(1)
    mean, stddev = random.uniform(-1, 17, n), random.uniform(0.2, 4, n)
    normal = nelbo.DiscretizedNormal(
        torch.from_numpy(2 * mean / 16 - 1), torch.from_numpy(stddev / 8), levels
    )
    values = ((normal.rsample().double() + 1) * 8).round().long().numpy()
    stack = Stack()
    before = stack.bits
    PixelNormal(mean, stddev, levels).push(stack, values)
    x = 2 * torch.from_numpy(values) / 16 - 1
    expected = -normal.log_prob(x).sum().item() / math.log(2)
    assert stack.bits - before == pytest.approx(expected, rel=2e-3)


def test_the_length_of_a_pushed_latent_is_that_of_its_bin():
    n = 4000
    random = np.random.default_rng(2)
    mean, stddev = random.uniform(-1e3, 1e3, n), random.uniform(3, 60, n)
    values = np.round(random.normal(mean, stddev)).astype(np.int64)
    stack = Stack()
    before = stack.bits
    GridNormal(mean, stddev).push(stack, values)
    edges = torch.from_numpy((values + np.array([[-0.5], [0.5]]) - mean) / stddev)
    low, high = torch.special.ndtr(-edges.abs()), torch.special.ndtr(edges)
    same_side = (edges[0] * edges[1]) > 0
    mass = torch.where(same_side, (low[0] - low[1]).abs(), high[1] - high[0])
    assert stack.bits - before == pytest.approx(-mass.log2().sum().item(), rel=2e-3)


def test_more_steps_than_levels():
    with pytest.raises(NelboError, match=r"steps must lie in 1\.\.6"):
        coding.compress(tiny(), random_images(1, tiny()), steps=7)


@pytest.mark.parametrize("share", [0, 8, 20, 160])
def test_turns_take_every_picture_once_and_grow(share):
    turns = Turns(share, 64, 4).of(299)
    assert [i for turn in turns for i in turn] == list(range(299))
    for turn in turns[:-1]:
        assert len(turn) == max(1, min(turn.start * share // 64, 64))


def of_standard_normals() -> SimpleNamespace:
    """A chain of one level whose every distribution is N(0, 1)."""

    def normal(x, *_):
        return torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x))

    def prior(shape):
        return normal(torch.zeros(shape))

    return SimpleNamespace(num_levels=1, q_step=normal, p_below=normal, p_prior=prior)


def test_turns_are_smaller_where_pictures_differ():
    """What those before leave on the stack is then less certain."""

    chain = of_standard_normals()

    def share(squares: list[float]) -> int:
        x_0 = torch.tensor(squares).double().sqrt().view(-1, 1).expand(-1, 100)
        return Turns.paid_for(chain, x_0, None, [0, -5], torch.Generator().manual_seed(0)).share

    alike, unlike = share([4.0] * 8), share([1.0, 7.0] * 4)
    # One level: what stays of an image is the cost of x_0, and what it takes first that of x_1.
    normalizer = 0.5 * math.log2(2 * math.pi)
    cost, draw = normalizer + 2 / math.log(2), normalizer + 0.5 / math.log(2) + 5
    error = 1.5 / math.log(2) / math.sqrt(7)
    assert alike == pytest.approx(64 * cost / draw, abs=1)
    assert unlike == pytest.approx(64 * (cost - 2 * error) / draw, abs=1)
    assert share([0.0, 100.0]) == 0  # whose two errors are more than their mean


def test_draws_that_take_nothing_count_as_one_bit():
    """On a coarse grid a draw takes less than a bit, or gives some; a share has no end by that."""

    chain = of_standard_normals()

    def share(n: int, values: int, log_step: int) -> int:
        x_0 = torch.full((n, values), 2.0).double()
        source = torch.Generator().manual_seed(0)
        return Turns.paid_for(chain, x_0, None, [0, log_step], source).share

    # Of a value: the cost of x_0 at 2, and of a draw of x_1 on a grid of step 1.
    cost = 0.5 * math.log2(2 * math.pi) + 2 / math.log(2)
    draw = 0.5 * math.log2(2 * math.pi) + 0.5 / math.log(2)
    for log_step in (-5, 1):
        expected = 64 * cost / (draw - log_step)
        assert share(8, 1000, log_step) == pytest.approx(expected, rel=0.1)
    for n in (1, 8):  # what x_1 costs is what its draw takes: examples that are alike do not differ
        assert share(n, 10, 4) == math.floor(64 * 10 * cost)


@pytest.mark.parametrize(
    ("values", "most"), [(100, 64), (1024, 64), (3000, 21), (8192, 8), (2**17, 1)]
)
def test_turns_hold_so_many_values(values, most):
    def normal(x, *_):
        return torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x))

    chain = SimpleNamespace(
        num_levels=1,
        q_step=normal,
        p_below=normal,
        p_prior=lambda shape: normal(torch.zeros(shape)),
    )
    x_0, source = torch.zeros(2, values), torch.Generator().manual_seed(0)
    assert Turns.paid_for(chain, x_0, None, [0, -5], source).most == most


def test_later_turns_are_paid_for_by_those_before():
    """Many at a time take no more off the ground than one at a time does."""
    model = tiny(17, (1, 4, 4), T=6)
    images = random_images(60, model)
    archive = coding.compress(model, images, verify=False)
    plan = Plan.from_json(Container.from_bytes(archive).header["plan"])
    assert max(map(len, Turns(*plan.turns).of(60))) > 1
    alone = coding.compress(model, images[:1], verify=False)
    taken = [Block.from_bytes(Container.from_bytes(a).blocks[0]).taken for a in (archive, alone)]
    assert taken[0] <= taken[1] + 2
