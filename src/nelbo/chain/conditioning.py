r"""What a network may be conditioned on beside :math:`x_t` and :math:`t`.

Every term of the bound holds for a conditional model :math:`p(x_0 \mid c)` as well, with
:math:`c` passed to each :math:`p(x_{t-1} \mid x_t, c)`. A `Condition` carries :math:`c`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from nelbo.base.arguments import described
from nelbo.base.errors import NelboError

# What each field holds, and where to get it from.
_EXPECTED = {
    "label": "a tensor of the class of each example, (B,) int64",
    "text": (
        "a tensor of embedded prompts, (B, N, D) float: model.condition_on(prompts) embeds them, "
        "and sample(prompt=...) takes them as they are"
    ),
    "control": "a tensor of spatial controls, (B, C, H, W) float",
    "text_mask": "a tensor of which tokens of each prompt count, (B, N)",
    "pooled_text": "a tensor of a vector for each prompt, (B, D) float",
    "size": "a tensor of six numbers for each picture, (B, 6)",
}


def check_condition(condition: Any, n: int | None = None) -> None:
    """Raise `NelboError` unless this is None or a `Condition`, of `n` examples if that is given."""
    if condition is None:
        return
    if not isinstance(condition, Condition):
        raise NelboError(
            f"condition is {described(condition)}, expected a Condition or None: "
            + _remedy(condition)
        )
    if n is not None and condition._given():
        condition.check_batch(n)


def _remedy(value: Any) -> str:
    """How to make a condition of what was given in place of one."""
    if isinstance(value, Tensor) and value.is_floating_point():
        kind = {2: "label", 3: "text", 4: "control"}.get(value.ndim, "label")
        what = "labels.long()" if kind == "label" else "..."
        return f"pass nelbo.Condition({kind}={what})"
    if isinstance(value, Tensor):
        return "pass nelbo.Condition(label=labels)"
    strings = [value] if isinstance(value, str) else value
    if isinstance(strings, list | tuple) and strings and isinstance(strings[0], str | None):
        return (
            "sample(prompt=...) takes prompts, and model.condition_on(prompts) makes a condition "
            "of them"
        )
    return "pass nelbo.Condition(label=torch.tensor([...]))"


@dataclass(frozen=True)
class Condition:
    """A batch of conditions; every field that is not None has the batch as its first dimension.

    Attributes:
        label: class of each example, (B,) int64; -1 stands for "no label".
        text: embedded prompt of each example, (B, N, D) float.
        control: spatial control of each example, (B, C, H, W) float.
        text_mask: 1 for each token of a prompt and 0 for padding, (B, N) int64, where the network
            does not attend to the latter; texts of different N are then padded to be joined.
        pooled_text: one vector for each prompt, (B, D) float, which SDXL takes beside the tokens.
        size: original height and width, top and left of the crop, target height and width of each
            picture in pixels, (B, 6), which SDXL takes.

    Raises:
        NelboError: a field that is no tensor with a batch, or fields of different batches.
    """

    label: Tensor | None = None
    text: Tensor | None = None
    control: Tensor | None = None
    pooled_text: Tensor | None = None
    size: Tensor | None = None
    text_mask: Tensor | None = None

    def __post_init__(self) -> None:
        given = self._given()
        for name, value in given.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise NelboError(
                    f"condition.{name} is {described(value)}, expected {_EXPECTED[name]}"
                )
        if len({len(value) for value in given.values()}) > 1:
            sizes = ", ".join(f"{len(value)} of {name}" for name, value in given.items())
            raise NelboError(f"the parts of a condition are of different batches: {sizes}")

    @property
    def batch_size(self) -> int:
        """Number of examples; 0 where nothing is given."""
        return max((len(v) for v in self._given().values()), default=0)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(value.nbytes for value in self._given().values())

    def check_batch(self, n: int) -> None:
        """Raise `NelboError` unless it is of `n` examples."""
        if self.batch_size != n:
            raise NelboError(
                f"the condition has batch size {self.batch_size}, expected {n}, one for each image"
            )

    def cat(self, other: Condition) -> Condition:
        """The two batches one after the other; both must give the same fields."""
        return Condition.join([self, other])

    @staticmethod
    def join(parts: Sequence[Condition]) -> Condition:
        """Batches one after the other; all must give the same fields.

        Raises:
            NelboError: they do not.
        """
        given = [part._padded(max(p._tokens for p in parts))._given() for part in parts]
        for other in given[1:]:
            if given[0].keys() != other.keys():
                raise NelboError(f"cannot join conditions on {[*given[0]]} and on {[*other]}")
        return Condition(**{name: torch.cat([each[name] for each in given]) for name in given[0]})

    def between(self, other: Condition, fractions: Tensor) -> Condition:
        r"""The conditions :math:`(1 - \lambda)\,c + \lambda\,c'` at each fraction λ, (n, ...).

        The straight way: a network attends to linear maps of the embedded prompt, its keys and
        values, which so move straight too.

        Args:
            other: c', one example as this one.
            fractions: λ, (n,).

        Raises:
            NelboError: more examples than one, other fields, or labels, which are no quantities.
        """
        both = self.cat(other)
        if both.batch_size != 2:
            raise NelboError(f"expected one example at each end, got {both.batch_size} in all")
        if both.label is not None:
            raise NelboError("nothing lies between two labels")

        def mix(ends: Tensor) -> Tensor:
            if not ends.is_floating_point():  # a mask: what counts at either end
                return ends.amax(0).expand(len(fractions), *ends.shape[1:])
            weight = fractions.to(ends).view(-1, *[1] * (ends.ndim - 1))
            return torch.lerp(ends[:1], ends[1:], weight)

        return both._map(mix)

    def __getitem__(self, index: slice | Tensor) -> Condition:
        """The conditions of some of the examples."""
        return self._map(lambda value: value[index])

    def repeat(self, repeats: int) -> Condition:
        """The whole batch `repeats` times over, (repeats * B, ...)."""
        return self._map(lambda value: value.repeat(repeats, *[1] * (value.ndim - 1)))

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Move every tensor, as `Tensor.to`."""
        return self._map(lambda value: value.to(*args, **kwargs))

    def float_to(self, dtype: torch.dtype) -> Condition:
        """With every tensor of real numbers in this type; labels and masks stay as they are."""
        return self._map(lambda value: value.to(dtype) if value.is_floating_point() else value)

    @property
    def _tokens(self) -> int:
        """N of a text with a mask; 0 without."""
        return 0 if self.text_mask is None else self.text_mask.shape[1]

    def _padded(self, tokens: int) -> Condition:
        """The same with a masked text of this many tokens."""
        more = tokens - self._tokens
        if self.text is None or self.text_mask is None or more == 0:
            return self
        text = pad(self.text, (0, 0, 0, more))
        return replace(self, text=text, text_mask=pad(self.text_mask, (0, more)))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(**{name: function(value) for name, value in self._given().items()})

    def _given(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
