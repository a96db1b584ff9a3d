r"""Zero-shot classification: which condition explains an image best?

By Bayes' rule with the bound in place of the evidence,

.. math::
    \hat c(x) = \arg\max_c\; \mathrm{ELBO}(x \mid c) + \log p(c)

(Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", with equal p(c)). Only
differences between classes matter, so every class meets the same levels and the same noise: what
is common to them cancels. A class leaves the race once the paired differences show that it is
behind, and the levels at which classes differ most are drawn most often, as earlier images showed.
Each draw costs one network call a class still in the race, where the exhaustive way takes
classes × levels.

With prompts for classes it needs no labels at all. A latent model's autoencoder is unconditional,
so its terms are common to all classes; each draw then has a z_0 ~ q(z_0|x) of its own, which all
classes share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nelbo.base.arguments import check_count, check_number
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.distributions import draw, drawn_on, randn_like, rows
from nelbo.chain.examples import check_examples
from nelbo.chain.model import Model, check_model
from nelbo.chain.terms import VALUES_PER_CALL
from nelbo.diffusion import Diffusion

# Draws of a round, after each of which classes may leave the race.
_ROUND = 4
# Share of draws that are uniform over levels whatever the classes did before.
_UNIFORM_SHARE = 0.2
# Pairs of classes of all images of a batch whose differences are kept.
_LARGEST_RACE = 2**23
# Levels whose class differences are averaged together to choose where to look.
_BINS = 25


@dataclass(frozen=True)
class Classification:
    """The classes of some images by the bound.

    Attributes:
        label: the most likely class of each image, (B,).
        nelbo: estimated negative bound of each class, nats, (B, C), but for what does not depend
            on the class; the mean over the draws that a class took part in.
        remaining: which classes were still in the race at the end, (B, C); one where the choice
            was certain.
        calls: network evaluations of each image, (B,).
    """

    label: Int[Tensor, " batch"]
    nelbo: Float[Tensor, "batch classes"]
    remaining: Bool[Tensor, "batch classes"]
    calls: Int[Tensor, " batch"]

    @staticmethod
    def cat(batches: Iterable[Classification]) -> Classification:
        """Join several batches, on the CPU."""
        columns = zip(*((b.label, b.nelbo, b.remaining, b.calls) for b in batches), strict=True)
        return Classification(*(torch.cat([part.cpu() for part in column]) for column in columns))


class Classifier:
    """Classifies images by the bound of a conditional model, with successive elimination.

    Args:
        model: a class- or text-conditional model, of pixels or of latents.
        classes: the condition of each class, batch size C: labels, or embedded prompts.
        margin: by how many standard errors of the paired difference a class must be behind the
            best before it is dropped. A larger one is surer and costs more calls.
        draws: largest number of (level, noise) draws an image.
        generator: the source of all noise.

    Raises:
        NelboError: fewer than two classes, a model that knows fewer, or options out of range.
    """

    def __init__(
        self,
        model: Model,
        classes: Condition,
        *,
        margin: float = 3.0,
        draws: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        check_condition(classes)
        if classes.batch_size < 2:
            raise NelboError(f"classification needs at least 2 classes, got {classes.batch_size}")
        if classes.label is not None:
            _check_labels(model, classes.label)
        check_number("margin", margin)
        if not margin > 0:
            raise NelboError(f"margin must be a positive number of standard errors, got {margin}")
        check_count("draws", draws, least=2)
        self.model = model
        self.classes = classes
        self.draws = draws
        self.generator = generator
        self._margin = margin
        if model.chain is None:
            raise NelboError("classification needs a model with a chain, whose levels it draws")
        self._chain: Diffusion = model.chain
        self._levels = _DistinguishingLevels(self._chain.num_levels)

    @torch.no_grad()
    def __call__(self, x_0: Float[Tensor, "batch ..."]) -> Classification:
        """Classify a batch; what it shows of the levels is used for the next one."""
        self.model.check_data(x_0)
        states = self._states(x_0)
        race = _Race(len(x_0), self.classes.batch_size, x_0.device)
        active = torch.arange(len(x_0), device=x_0.device)
        done = 0
        while len(active) and done < self.draws:
            count = min(_ROUND, self.draws - done)
            for _ in range(count):
                self._draw(states(active), active, race)
            done += count
            race.eliminate(self._margin)
            active = (race.remaining.sum(1) > 1).nonzero().flatten()
        return race.result()

    def _states(self, x_0: Tensor) -> Callable[[Tensor], Tensor]:
        """What the chain is of, by the indices of images: pixels, or a draw of their latents."""
        q = self.model.encode(x_0)
        return lambda chosen: draw(rows(q, chosen), self.generator)

    def _draw(self, some: Tensor, active: Tensor, race: _Race) -> None:
        """One level and one noise for each image still undecided, all its classes in one call."""
        t, weight = self._levels.choose(len(active), self.generator)
        t, weight = t.to(some.device), weight.to(some.device)
        x_t = self._chain.diffuse(some, randn_like(some, self.generator), t)
        row, label = race.remaining[active].nonzero(as_tuple=True)
        terms = self._terms(some, x_t, t, row, label)
        race.add(active, row, label, weight[row] * terms)
        self._levels.learn(t, row, terms, len(active))

    def _terms(
        self, x_0: Tensor, x_t: Tensor, t: Tensor, row: Tensor, label: Tensor
    ) -> Float[Tensor, " pairs"]:
        """What its level costs each (image, class) pair, nats."""
        pairs = max(1, VALUES_PER_CALL // x_0[0].numel())
        parts = []
        for chosen, klass in zip(row.split(pairs), label.split(pairs), strict=True):
            prediction = self._chain.predict(x_t[chosen], t[chosen], self.classes[klass])
            parts.append(self._chain.level_term(prediction, x_0[chosen], t[chosen]))
        return torch.cat(parts).double()


def classify(
    model: Model,
    x_0: Float[Tensor, "batch ..."],
    classes: Condition | None = None,
    *,
    batch_size: int = 64,
    margin: float = 3.0,
    draws: int = 128,
    generator: torch.Generator | None = None,
) -> Iterator[Classification]:
    """Classify images by the bound, a `Classification` a batch.

    Args:
        model: a conditional model.
        x_0: images in network space, (N, C, H, W).
        classes: the condition of each class; by default every label of a class-conditional model.
        batch_size: images at a time.
        margin: standard errors that a class must be behind before it is dropped.
        draws: largest number of (level, noise) draws an image.
        generator: the source of all noise.

    Raises:
        NelboError: a model without classes, or options out of range.
    """
    check_model(model)
    check_examples(x_0=x_0)
    check_count("batch_size", batch_size)
    if classes is None:
        if model.num_classes < 2:
            raise NelboError("the model has no classes: pass the condition of each class")
        classes = Condition(label=torch.arange(model.num_classes, device=x_0.device))
    classifier = Classifier(model, classes, margin=margin, draws=draws, generator=generator)
    for batch in x_0.split(min(batch_size, images_at_once(classes.batch_size))):
        yield classifier(batch)


def images_at_once(classes: int) -> int:
    """The number of images that race together, by the number of classes and the memory."""
    return max(1, _LARGEST_RACE // classes**2)


class _Race:
    """Running paired sums of every class of every image."""

    def __init__(self, images: int, classes: int, device: torch.device) -> None:
        self.remaining = torch.ones(images, classes, dtype=torch.bool, device=device)
        self.calls = torch.zeros(images, dtype=torch.int64, device=device)
        self._draws = torch.zeros(images, classes, dtype=torch.float64, device=device)
        self._sum = torch.zeros_like(self._draws)
        # Sums of products of every pair of classes, for the variance of their difference.
        self._products = torch.zeros(images, classes, classes, dtype=torch.float64, device=device)

    def add(self, active: Tensor, row: Tensor, label: Tensor, costs: Tensor) -> None:
        """One more draw of some images: the cost of each (row, class) pair."""
        image = active[row]
        table = torch.zeros(len(active), self.remaining.shape[1], dtype=torch.float64).to(costs)
        table[row, label] = costs
        # Large common costs would swamp the differences.
        taking_part = self.remaining[active]
        common = table.sum(1, keepdim=True) / taking_part.sum(1, keepdim=True)
        self.calls.index_add_(0, image, torch.ones_like(image))
        self._draws[active] += taking_part.double()
        self._sum[active] += table
        centred = torch.where(taking_part, table - common, 0.0)
        self._products[active] += centred[:, :, None] * centred[:, None, :]

    def eliminate(self, margin: float) -> None:
        """Drop the classes that are behind the best by more than `margin` standard errors."""
        draws = self._draws.amax(1, keepdim=True)
        mean = (self._sum / self._draws).masked_fill(~self.remaining, math.inf)
        best = mean.argmin(1, keepdim=True)
        behind = mean - mean.gather(1, best)
        square = torch.diagonal(self._products, dim1=1, dim2=2)
        cross = self._products.gather(2, best[:, :, None].expand(-1, square.shape[1], 1)).squeeze(2)
        second_moment = (square + square.gather(1, best) - 2 * cross) / draws
        variance = (second_moment - behind.square()).clamp(min=0) / (draws - 1)
        self.remaining &= behind <= margin * variance.sqrt()

    def result(self) -> Classification:
        nelbo = self._sum / self._draws
        label = nelbo.masked_fill(~self.remaining, math.inf).argmin(1)
        return Classification(label, nelbo, self.remaining, self.calls)


class _DistinguishingLevels:
    """Draws levels 1..T, more often where classes have differed; weights make it unbiased."""

    def __init__(self, T: int) -> None:
        self._bin = torch.arange(T) * min(_BINS, T) // T
        bins = int(self._bin[-1]) + 1
        self._sum = torch.zeros(bins, dtype=torch.float64)
        self._count = torch.zeros(bins, dtype=torch.float64)

    def choose(
        self, images: int, generator: torch.Generator | None
    ) -> tuple[Int[Tensor, " images"], Float[Tensor, " images"]]:
        """A level for each image, on one shifted grid, and its weight 1/π(t)."""
        T = len(self._bin)
        spread = (self._sum / self._count.clamp(min=1)).sqrt()
        # Classes that never differed, as of a network that ignores them, leave levels alike.
        spread = torch.where(self._count > 0, spread, spread.max()).clamp(min=1e-12)
        learnt = spread[self._bin]
        proposal = (1 - _UNIFORM_SHARE) * learnt / learnt.sum() + _UNIFORM_SHARE / T
        device = drawn_on(generator, torch.get_default_device())
        shift = torch.rand((), generator=generator, device=device, dtype=torch.float64).cpu()
        order = torch.randperm(images, generator=generator, device=device).cpu()
        place = (shift + order / images) % 1.0
        t = torch.searchsorted(proposal.cumsum(0), place, right=True).clamp(max=T - 1)
        return t + 1, 1 / proposal[t]

    def learn(self, t: Tensor, row: Tensor, terms: Tensor, images: int) -> None:
        """Remember how much the classes differed at these levels."""
        count = torch.zeros(images, dtype=torch.float64).index_add(
            0, row.cpu(), torch.ones(len(row), dtype=torch.float64)
        )
        zeros = torch.zeros(images, dtype=torch.float64)
        terms = terms.cpu()
        mean = zeros.index_add(0, row.cpu(), terms) / count
        deviation = (terms - mean[row.cpu()]).square()
        variance = zeros.index_add(0, row.cpu(), deviation) / (count - 1).clamp(min=1)
        where = self._bin[t.cpu() - 1]
        self._sum.index_add_(0, where, variance)
        self._count.index_add_(0, where, torch.ones_like(variance))


def _check_labels(model: Model, labels: Tensor) -> None:
    known = model.num_classes
    if known and (int(labels.min()) < 0 or int(labels.max()) >= known):
        raise NelboError(
            f"classes must lie in 0..{known - 1}, the model's; found "
            f"{int(labels.min())}..{int(labels.max())}"
        )
