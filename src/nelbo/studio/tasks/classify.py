"""Classify: which class or prompt explains a picture best, by the bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition
from nelbo.chain.distributions import generator_for
from nelbo.evidence.classification import Classifier
from nelbo.studio.desk import Event
from nelbo.studio.form import Form
from nelbo.studio.shelf import Served, Shelf
from nelbo.studio.tasks.looking import Reading

# Rounds of draws, which all classes share; between them the ranking is shown.
_ROUNDS, _DRAWS = 8, 16
# Standard errors after which a class leaves the race: none does, so that all stay comparable.
_NEVER = 1e9


@dataclass(frozen=True)
class Classify:
    """The picture, and the prompts to rank; of a model with classes, all of these."""

    reading: Reading
    prompts: tuple[str, ...]
    most: int

    def run(self, shelf: Shelf) -> Iterator[Event]:
        """The ranking after each round of draws."""
        served = shelf.model(self.reading.model)
        names, classes = self._classes(served)
        pixels = served.pixels(self.reading.images[0])
        x_0 = served.to_network(pixels)[None]
        classifier = Classifier(
            served.model,
            classes,
            margin=_NEVER,
            draws=_DRAWS,
            generator=generator_for(self.reading.seed, 8),
        )
        rounds: list[Tensor] = []
        for k in range(1, _ROUNDS + 1):
            rounds.append(classifier(x_0).nelbo[0].cpu())
            text = f"Round {k} of {_ROUNDS}"
            yield {"type": "progress", "step": k, "of": _ROUNDS, "text": text}
            if k > 1:
                yield {"type": "ranking", **ranking(names, torch.stack(rounds))}

    def _classes(self, served: Served) -> tuple[list[str], Condition]:
        """Their names, and the condition of each.

        Raises:
            NelboError: fewer than two, or a model that knows neither.
        """
        if served.model.num_classes:
            if served.model.num_classes > self.most:
                raise NelboError(
                    f"{served.name} has {served.model.num_classes:,} classes, at most {self.most} "
                    "are ranked here: use nelbo classify"
                )
            condition = served.model.classes_in_turn(served.model.num_classes)
            assert condition is not None
            return served.classes, condition
        if not served.model.reads_text:
            raise NelboError(f"{served.name} knows neither classes nor prompts")
        if len(self.prompts) < 2:
            raise NelboError("give at least two prompts to rank, one a line")
        condition = served.model.condition_for(len(self.prompts), None, self.prompts)
        assert condition is not None
        return list(self.prompts), condition


def ranking(names: list[str], rounds: Tensor) -> dict[str, object]:
    r"""Classes from the likeliest on, with :math:`p(c|x) \propto \exp(\mathrm{ELBO}(x|c))`.

    Args:
        names: of the classes.
        rounds: estimates of the negative bound of each class in nats, (R, C), but for a constant.
    """
    mean = rounds.mean(0)
    best = int(mean.argmin())
    # All classes meet the same noise, so that differences are known better than either.
    behind = rounds - rounds[:, best : best + 1]
    error = behind.std(0) / len(rounds) ** 0.5
    probability = (-mean).softmax(0)
    return {
        "classes": [
            {
                "name": names[c],
                "probability": float(probability[c]),
                "behind": float(behind[:, c].mean()),
                "error": float(error[c]),
            }
            for c in mean.argsort().tolist()
        ]
    }


def read(form: Form) -> Classify:
    """The task of a form."""
    prompts = form.texts("prompts", form.limits.prompts)
    return Classify(Reading.read(form), tuple(prompts), form.limits.prompts)
