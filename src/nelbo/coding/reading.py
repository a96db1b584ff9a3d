"""Reading an archive: the pictures that are whole, or a line on each block that is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.model import Model
from nelbo.coding.agreement import Agreement
from nelbo.coding.arguments import as_bytes, check_model
from nelbo.coding.chain_code import Lane, Part, Progress
from nelbo.coding.coders import code_for, coded_dtype, groups_of, spans_of, widened
from nelbo.coding.conditions import conditions_of, is_stored
from nelbo.coding.container import Block, Container, DamageError
from nelbo.coding.header import check_header
from nelbo.coding.identity import machine, weights_digest
from nelbo.coding.names import unpacked
from nelbo.coding.pictures import Beside, Tiling, as_given
from nelbo.coding.plan import Plan
from nelbo.coding.stack import CODER, Stack, coder

_OTHER_OUTPUTS = "its networks' outputs here are not those that it was coded with"


@dataclass(frozen=True)
class Decoded:
    """What an archive holds.

    Attributes:
        images: the pictures that could be read, as they were given.
        index: which of all pictures they are.
        names: of each of these, if they have any.
        total: how many pictures the archive holds.
        damage: what could not be read, a line each.
        stacked: whether the pictures were given as one tensor.
    """

    images: list[Tensor]
    index: list[int]
    names: list[str] | None
    total: int
    stacked: bool
    damage: list[str] = field(default_factory=list)


def read(
    model: Model,
    data: bytes,
    *,
    condition: Condition | None = None,
    recover: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """The pictures of an archive with their names.

    Args:
        model: the model that the archive was made with.
        data: the archive.
        condition: what the model was conditioned on, where that is not stored.
        recover: leave out the pictures of damaged blocks in place of an error.
        progress: called with completed=0 and the total as the tiles are begun to be decoded, and
            with how many more are done.

    Raises:
        NelboError: a file that is damaged or no archive, or a model of other weights.
    """
    check_model(model)
    container = Container.from_bytes(as_bytes(data))
    _check_model(model, container.header)
    wide = widened(model, "machine" in container.header)
    return decoded(wide, container, condition=condition, recover=recover, progress=progress)


def decoded(
    wide: Model,
    container: Container,
    *,
    condition: Condition | None = None,
    recover: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """As `read`, by a model in the precision that is coded with, whose weights are those."""
    coder()
    header = container.header
    fast = "machine" in header
    if fast and header["machine"] != machine(wide.device):
        raise NelboError(
            f"the archive was made in float32 on a machine with {header['machine']}, which alone "
            f"opens it; this one has {machine(wide.device)}"
        )
    if "condition" in header and condition is None:
        raise NelboError(
            "the archive was made with a condition that it does not hold: give the same again"
        )
    check_header(header, wide.shape, len(container.blocks))
    tiling, beside = Tiling.from_json(header), Beside.from_json(header)
    check_condition(condition, beside.count)
    if condition is not None and not is_stored(condition) and "condition" not in header:
        raise NelboError("the archive holds all that its pictures were conditioned on: give none")
    conditions = conditions_of(wide, beside, tiling, condition)
    plan = Plan.from_json(header["plan"])
    code = code_for(plan.applied(wide), plan, fast=fast)
    of_tile = tiling.pictures
    spans = spans_of(len(of_tile), header["block"])
    damage: dict[int, str] = {}

    def lost(i: int, error: DamageError) -> None:
        damage[i] = _damage(error, i, spans, of_tile)
        if not recover:
            raise DamageError(f"the archive is damaged: {damage[i]}; --recover reads the rest")

    whole: dict[int, Block] = {}
    for i, content in enumerate(container.blocks):
        try:
            if i >= len(spans):
                raise DamageError(f"{len(content)} bytes follow the last block")
            whole[i] = Block.from_bytes(content)
        except DamageError as error:
            lost(i, error)
    tiles = torch.zeros((len(of_tile), *tiling.shape), dtype=torch.int64)
    names: dict[int, str] = {}
    if progress is not None:
        progress(description="Reading back", completed=0, total=len(of_tile))
    for group in groups_of(list(whole.items()), header["block"], fast):
        lanes = [Lane(Stack(b.words, b.taken), Agreement.from_bytes(b.listed)) for _, b in group]
        empty = torch.zeros(tiling.shape, dtype=coded_dtype(fast), device=wide.device)
        parts = [Part(empty.repeat(len(spans[i]), 1, 1, 1), spans[i], conditions) for i, _ in group]
        try:
            code.pop(lanes, parts, progress)
        except KeyError:  # a draw to put back that the distribution here cannot have given
            for i, _ in group:
                lost(i, DamageError(_OTHER_OUTPUTS))
            continue
        for (i, _), lane, part in zip(group, lanes, parts, strict=True):
            tiles[spans[i]] = wide.data.to_levels(part.x_0).cpu()
            begun = tiling.begun(spans[i])
            try:
                names |= zip(begun, _bottom(lane.stack, len(begun), "names" in header), strict=True)
            except DamageError as error:
                lost(i, error)
    gone = {of_tile[j] for i in damage if i < len(spans) for j in spans[i]}
    index = [i for i in range(beside.count) if i not in gone]
    pixels = tiling.join(tiles)
    return Decoded(
        [as_given(wide, pixels[i], beside.dtype) for i in index],
        index,
        [names[i] for i in index] if "names" in header else None,
        beside.count,
        beside.stacked,
        [damage[i] for i in sorted(damage)],
    )


def _bottom(stack: Stack, count: int, named: bool) -> list[str]:
    """The names at the bottom of a stack, "" where there are none.

    Raises:
        DamageError: anything else is there, since what was taken off was not put back.
    """
    words, taken = stack.contents()
    if taken or (len(words) and not named):
        raise DamageError(_OTHER_OUTPUTS)
    return unpacked(words, count) if named else [""] * count


def _check_model(model: Model, header: dict[str, Any]) -> None:
    found = weights_digest(model)
    if header["weights"] != found:
        raise NelboError(
            f"the archive was made with a model of other weights, levels or guidance, of hash "
            f"{header['weights']}, that of the one given is {found}: give the model that made it"
        )
    if header["coder"] != CODER:
        raise NelboError(f"the archive needs the coder {header['coder']}, this nelbo has {CODER}")


def _damage(reason: object, i: int, spans: list[list[int]], of_tile: list[int]) -> str:
    """A line on a block that cannot be read."""
    if i >= len(spans):
        return str(reason)
    first, last = of_tile[spans[i][0]], of_tile[spans[i][-1]]
    which = f"picture {first + 1}" if first == last else f"pictures {first + 1} to {last + 1}"
    return f"block {i + 1} of {len(spans)}, {which}: {reason}"
