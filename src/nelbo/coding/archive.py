"""Archives: pictures compressed to bytes by a model, read back by the same model bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.model import Model
from nelbo.coding.agreement import TOLERANCE, Agreement
from nelbo.coding.chain_code import ChainCode, Lane, Part
from nelbo.coding.conditions import conditions_of, is_stored
from nelbo.coding.container import Block, Container, DamageError, required
from nelbo.coding.identity import machine, weights_digest
from nelbo.coding.pictures import Beside, Tiling, as_given, levels_of
from nelbo.coding.plan import Plan, plan_for
from nelbo.coding.stack import CODER, Stack, coder
from nelbo.coding.value_code import ValueCode
from nelbo.version import __version__

# Images on one stack: the first of them pays for its draws.
BLOCK = 512
# The grid of the first image of a block is 2⁴ times coarser, of the second 2³ times, and so on.
_COARSER = 4
_SIDE_BY_SIDE = 16

# Called with how many more images are done.
Progress = Callable[[int], None]


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


def compress(
    model: Model,
    images: Any,
    *,
    steps: int | None = None,
    condition: Condition | None = None,
    names: Sequence[str] | None = None,
    captions: Sequence[str | None] | None = None,
    block: int = BLOCK,
    fast: bool = False,
    verify: bool = True,
    notes: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Compress pictures without loss, in about as many bits as the model's bound says.

    Args:
        model: a model of pixels.
        images: pixel levels, (N, C, H, W) of an integer type, or values in [−1, 1] of a float one;
            a list of (C, h, w), which may differ in size; or `ImageData`, whose names are kept,
            and whose labels or captions the model is conditioned on if it reads them.
        steps: the number of levels of the chain that is coded along; None takes 30, or all of a
            shorter chain.
        condition: what the model is conditioned on for each picture. Labels are stored; anything
            else has to be given to `decompress` again.
        names: of each picture.
        captions: of each picture, for a model of text; they are stored.
        block: tiles that share a stack. Blocks are read without one another; each pays for the
            draws of its first picture.
        fast: compute in float32: such an archive opens on a like machine alone.
        verify: read the archive back before it is returned.
        notes: more fields for the header.
        progress: called as images are coded, and once more for each that is read back.

    Raises:
        NelboError: pictures that are not data of the model, no pictures, a name twice, a model
            that gives pictures no probability, or an archive that was not read back the same.
        MissingExtraError: constriction is not installed.
    """
    coder()
    if block < 1:
        raise NelboError(f"block must be at least 1, got {block}")
    pixels, beside = levels_of(model, images, names, captions)
    check_condition(condition, len(pixels))
    if condition is not None and condition.label is not None:
        beside = replace(beside, labels=condition.label.tolist())
    shape = model.shape
    assert shape is not None
    tiling = Tiling([(p.shape[1], p.shape[2]) for p in pixels], shape)
    wide = _wide(model, fast)
    tiles = wide.data.to_network(tiling.cut(pixels)).to(wide.device, _dtype(fast))
    conditions = conditions_of(wide, beside, tiling, condition)
    plan = plan_for(wide, tiles, conditions, steps)
    header = {
        "nelbo": __version__,
        "coder": CODER,
        "weights": weights_digest(model),
        "shape": list(shape),
        "levels": model.data.shown_levels,
        "plan": plan.to_json(),
        "coarser": _COARSER,
        "block": block,
        **({"machine": machine(wide.device)} if fast else {}),
        **beside.to_json(),
        **tiling.to_json(),
        **({} if condition is None or is_stored(condition) else {"condition": "given apart"}),
        **(notes or {}),
    }
    code = _code(plan.applied(wide), plan, header, fast)
    parts = [Part(tiles[some], some, conditions) for some in _spans(len(tiles), block)]
    blocks: list[bytes] = []
    for group in _groups(parts, fast):
        lanes = [Lane(Stack(code.ground()), Agreement()) for _ in group]
        code.push(lanes, group)
        for lane in lanes:
            words, taken = lane.stack.contents()
            blocks.append(Block(words, taken, lane.agreement.to_bytes()).to_bytes())
        if progress is not None:
            progress(sum(len(part.index) for part in group))
    archive = Container(header, blocks).to_bytes()
    if verify:
        _check_same(read(model, archive, condition=condition, progress=progress), pixels, model)
    return archive


def decompress(
    model: Model, data: bytes, *, condition: Condition | None = None
) -> Tensor | list[Tensor]:
    """The pictures of an archive, bit for bit and of the type that they were given as.

    Args:
        model: the model that the archive was made with.
        data: the archive.
        condition: what the model was conditioned on, where that is not stored.

    Raises:
        NelboError: a file that is damaged or no archive, or a model of other weights.
    """
    found = read(model, data, condition=condition)
    return torch.stack(found.images) if found.stacked else found.images


def contents(data: bytes) -> dict[str, Any]:
    """The header of an archive, whose fields docs/archives.md describes.

    Raises:
        NelboError: a file that is damaged or no archive, or of a newer version.
    """
    return Container.from_bytes(data).header


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
        progress: called as images are decoded.

    Raises:
        NelboError: a file that is damaged or no archive, or a model of other weights.
    """
    coder()
    container = Container.from_bytes(data)
    header = container.header
    fast = "machine" in header
    _check_model(model, header)
    wide = _wide(model, fast)
    if fast and header["machine"] != machine(wide.device):
        raise NelboError(
            f"the archive was made in float32 on a machine with {header['machine']}, which alone "
            f"opens it; this one has {machine(wide.device)}"
        )
    plan = Plan.from_json(required(header, "plan"))
    tiling, beside = Tiling.from_json(header), Beside.from_json(header)
    if "condition" in header and condition is None:
        raise NelboError(
            "the archive was made with a condition that it does not hold: give the same again"
        )
    conditions = conditions_of(wide, beside, tiling, condition)
    code = _code(plan.applied(wide), plan, header, fast)
    of_tile = tiling.pictures
    tiles = torch.zeros((len(of_tile), *tiling.shape), dtype=torch.int64)
    spans = _spans(len(of_tile), header["block"])
    damage, whole = [], []
    for i, content in enumerate(container.blocks):
        try:
            if i >= len(spans):
                raise DamageError(f"{len(content)} bytes follow the last block")
            whole.append((i, Block.from_bytes(content)))
        except DamageError as error:
            damage.append(_damage(error, i, spans, of_tile))
    if damage and not recover:
        raise DamageError(f"the archive is damaged: {damage[0]}; --recover reads the rest")
    there = {i for i, _ in whole}
    lost = {of_tile[j] for i, span in enumerate(spans) if i not in there for j in span}
    for group in _groups(whole, fast):
        lanes = [
            Lane(Stack(code.ground(), b.words, b.taken), Agreement.from_bytes(b.listed))
            for _, b in group
        ]
        empty = torch.zeros(tiling.shape, dtype=_dtype(fast), device=wide.device)
        parts = [Part(empty.repeat(len(spans[i]), 1, 1, 1), spans[i], conditions) for i, _ in group]
        code.pop(lanes, parts)
        for (i, _), lane, part in zip(group, lanes, parts, strict=True):
            tiles[spans[i]] = wide.data.to_levels(part.x_0).cpu()
            if not lane.stack.is_bare:
                reason = "its networks' outputs here are not those that it was coded with"
                damage.append(_damage(reason, i, spans, of_tile))
                lost |= {of_tile[j] for j in spans[i]}
        if damage and not recover:
            raise DamageError(f"the archive cannot be decoded: {damage[0]}")
        if progress is not None:
            progress(sum(len(part.index) for part in parts))
    index = [i for i in range(len(tiling.sizes)) if i not in lost]
    starts = torch.tensor([0, *tiling.counts]).cumsum(0).tolist()
    images = [
        as_given(model, tiling.join(tiles[starts[i] : starts[i + 1]], i), beside.dtype)
        for i in index
    ]
    names = None if beside.names is None else [beside.names[i] for i in index]
    return Decoded(images, index, names, beside.count, beside.stacked, damage)


def _dtype(fast: bool) -> torch.dtype:
    return torch.float32 if fast else torch.float64


def _wide(model: Model, fast: bool) -> Model:
    """The model in the precision that is coded with."""
    if model.device.type == "mps" and not fast:
        model = copy.deepcopy(model).to("cpu")  # Apple's devices have no float64
    return copy.deepcopy(model).to(_dtype(fast)).eval()


def _code(model: Model, plan: Plan, header: dict[str, Any], fast: bool) -> ChainCode | ValueCode:
    """What codes examples of a model: along its chain of latents, or value by value."""
    chain = model.latent_chain
    if chain is None or plan.steps is None:
        if model.conditionals(1) is None:
            raise NelboError(
                f"{model.title} cannot code pictures: it has neither a chain of latents nor a "
                "probability of each value given those before it"
            )
        tolerance = 0.0 if fast else TOLERANCE
        return ValueCode(model, tuple(header["shape"]), header["levels"], tolerance)
    return ChainCode(
        chain,
        plan.steps,
        header["levels"],
        max(chain.start(1).numel(), torch.Size(header["shape"]).numel()),
        header["coarser"],
        _dtype(fast),
    )


def _spans(count: int, block: int) -> list[list[int]]:
    """Which tiles each block holds."""
    return [list(range(i, min(i + block, count))) for i in range(0, count, block)]


def _groups(items: list[Any], fast: bool) -> list[list[Any]]:
    """Blocks that are coded side by side; a float32 network is called on one example alone."""
    size = 1 if fast else _SIDE_BY_SIDE
    return [items[i : i + size] for i in range(0, len(items), size)]


def _check_model(model: Model, header: dict[str, Any]) -> None:
    found = weights_digest(model)
    if required(header, "weights") != found:
        raise NelboError(
            f"the archive was made with a model whose weights have the hash {header['weights']}, "
            f"those of this {model.title[2:]} have {found}: give the model that made it"
        )
    if required(header, "coder") != CODER:
        raise NelboError(f"the archive needs the coder {header['coder']}, this nelbo has {CODER}")


def _check_same(found: Decoded, pixels: Sequence[Tensor], model: Model) -> None:
    """Raise `NelboError` unless what was read back is what was given."""
    for image, levels in zip(found.images, pixels, strict=True):
        if not torch.equal(image, as_given(model, levels, str(image.dtype)[6:])):
            raise NelboError("the archive does not read back the same, and is of no use: report it")


def _damage(reason: object, i: int, spans: list[list[int]], of_tile: list[int]) -> str:
    """A line on a block that cannot be read."""
    if i >= len(spans):
        return str(reason)
    first, last = of_tile[spans[i][0]], of_tile[spans[i][-1]]
    which = f"picture {first + 1}" if first == last else f"pictures {first + 1} to {last + 1}"
    return f"block {i + 1} of {len(spans)}, {which}: {reason}"
