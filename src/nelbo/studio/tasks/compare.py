"""Compare: by how much one model needs fewer bits for a picture than another, on shared noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.evidence.one_image import monte_carlo_error
from nelbo.evidence.one_image_pair import Contender, check_same_data, refine_difference
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.pictures import png
from nelbo.studio.shelf import Served, Shelf
from nelbo.studio.tasks.evaluate import ERRORS
from nelbo.studio.tasks.looking import Reading
from nelbo.studio.tasks.mapping import bit_map


@dataclass(frozen=True)
class Compare:
    """A picture, the names of two models, and the error of the difference to reach."""

    reading: Reading
    names: tuple[str, str]
    error: float
    most: int

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """The difference and each model's bits, refined; then where each has its own."""
        both = [shelf.model(name) for name in self.names]
        sides = []
        for index, served in enumerate(both):
            pixels = served.pixels(self.reading.images[0])
            yield {"type": "image", "index": index, "url": png(pixels, served.levels)}
            x_0 = served.to_network(pixels)[None]
            sides.append(Contender(served.model, x_0, self._condition(served)))
        pair = sides[0], sides[1]
        check_same_data(*pair)
        for served in both:
            shelf.scaled(served)
        readings = refine_difference(pair, self.error, seed=self.reading.seed, most=self.most)
        for each, found in readings:
            text = f"{found.calls:,} of about {found.planned:,} evaluations of each network"
            yield {"type": "progress", "step": found.calls, "of": found.planned, "text": text}
            yield {
                "type": "pair",
                "difference": found.bits,
                "error": found.error,
                "final": found.final,
                "sides": [
                    {"bits": float(side.bits_per_dim[0]), "error": monte_carlo_error(side)}
                    for side in each
                ],
            }
        for index, (served, side) in enumerate(zip(both, sides, strict=True)):
            seed = self.reading.seed  # the same for both
            yield from bit_map(served, side.x_0, side.condition, index, seed)

    def _condition(self, served: Served) -> Condition | None:
        """Both are asked about the same prompt, as far as they read any."""
        reads = served.model.reads_text
        return replace(self.reading, prompt=self.reading.prompt if reads else None).condition(
            served
        )


def read(form: Form) -> Compare:
    """The task of a form.

    Raises:
        NelboError: not two different models, or what `Reading.read` refuses.
    """
    first, second = form.text("first"), form.text("second")
    if first is None or second is None or first == second:
        raise NelboError("two different models are compared: name them as first and second")
    error = form.number("error", 0.05, *ERRORS)
    return Compare(Reading.read(form), (first, second), error, form.limits.calls)
