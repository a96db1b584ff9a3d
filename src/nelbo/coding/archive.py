"""Archives: pictures compressed to bytes by a model, read back by the same model bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo.base.arguments import check_count
from nelbo.base.errors import NelboError
from nelbo.chain.conditioning import Condition, check_condition
from nelbo.chain.model import Model
from nelbo.coding.agreement import Agreement
from nelbo.coding.arguments import as_bytes, check_notes
from nelbo.coding.chain_code import Lane, Part, Progress
from nelbo.coding.coders import code_for, coded_dtype, groups_of, spans_of, widened
from nelbo.coding.conditions import conditions_of, is_stored
from nelbo.coding.container import OWN_FIELDS, Block, Container
from nelbo.coding.identity import machine, weights_digest
from nelbo.coding.names import packed
from nelbo.coding.pictures import Beside, as_given, pictures_of
from nelbo.coding.plan import plan_for
from nelbo.coding.reading import decoded, read
from nelbo.coding.stack import CODER, Stack, Words, coder
from nelbo.version import __version__

# Images on one stack: the first of them pays for its draws.
BLOCK = 512


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
        images: pixel levels, (N, C, H, W) of an integer type, or values in [−1, 1] of a float one,
            which come back as `model.data.to_network` makes them of their levels; a list of
            (C, h, w), which may differ in size; or `ImageData`, whose names are kept,
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
        notes: more fields for the header, of names that it does not have: what JSON can hold.
        progress: called with completed=0 and the total as the tiles are begun to be coded, and
            to be read back, and with how many more are done.

    Raises:
        NelboError: pictures that are not data of the model, no pictures, a name twice, a model
            that gives pictures no probability, notes that the header cannot hold, or an archive
            that was not read back the same.
        MissingExtraError: constriction is not installed.
    """
    coder()
    check_count("block", block)
    check_notes(notes, OWN_FIELDS)
    pixels, beside, tiling = pictures_of(model, images, names, captions)
    check_condition(condition, len(pixels))
    if condition is not None and condition.label is not None:
        beside = replace(beside, labels=condition.label.tolist())
    wide = widened(model, fast)
    tiles = wide.data.to_network(tiling.cut(pixels)).to(wide.device, coded_dtype(fast))
    conditions = conditions_of(wide, beside, tiling, condition)
    plan = plan_for(wide, tiles, conditions, steps)
    header = {
        "nelbo": __version__,
        "coder": CODER,
        "weights": weights_digest(model),
        "shape": list(tiling.shape),
        "levels": model.data.shown_levels,
        "plan": plan.to_json(),
        "block": block,
        **({"machine": machine(wide.device)} if fast else {}),
        **beside.to_json(),
        **tiling.to_json(),
        **({} if condition is None or is_stored(condition) else {"condition": "given apart"}),
        **(notes or {}),
    }
    code = code_for(plan.applied(wide), plan, fast=fast)
    parts = [Part(tiles[some], some, conditions) for some in spans_of(len(tiles), block)]
    blocks: list[bytes] = []
    if progress is not None:
        progress(description="Compressing", completed=0, total=len(tiles))
    for group in groups_of(parts, block, fast):
        lanes = [
            Lane(Stack(_names(beside, tiling.begun(part.index))), Agreement()) for part in group
        ]
        code.push(lanes, group, progress)
        for lane in lanes:
            words, taken = lane.stack.contents()
            blocks.append(Block(words, taken, lane.agreement.to_bytes()).to_bytes())
    archive = Container(header, blocks).to_bytes()
    if verify:  # by the weights at hand, which need no second hash
        again = Container.from_bytes(archive)
        found = decoded(wide, again, condition=condition, progress=progress)
        for image, levels in zip(found.images, pixels, strict=True):
            if not torch.equal(image, as_given(wide, levels, beside.dtype)):
                raise NelboError("the archive does not read back the same: report it")
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
        NelboError: a file that is damaged or no archive, or of another version.
    """
    return Container.from_bytes(as_bytes(data)).header


def _names(beside: Beside, pictures: Sequence[int]) -> Words | None:
    """What lies at the bottom of a stack."""
    return None if beside.names is None else packed([beside.names[i] for i in pictures])
