"""Top-level folders whose names declare splits: train/, validation/, test/.

With train/ and one other folder, that folder is the test split, and file names decide which
pictures of train/ are for validation. Without declared splits, file names decide everything; see
`splits`. Case is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

from nelbo.data.names import printable
from nelbo.data.splits import TEST, TRAIN, VALIDATION, split_by_name, split_for_validation

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing")
VALIDATION_FOLDERS = ("validation", "valid", "val", "dev")
_MEANINGS = (
    dict.fromkeys(TRAIN_FOLDERS, TRAIN)
    | dict.fromkeys(TEST_FOLDERS, TEST)
    | dict.fromkeys(VALIDATION_FOLDERS, VALIDATION)
)


def are_declared(names: Sequence[str]) -> bool:
    """Whether top-level folders declare the training split, with nothing beside them."""
    meanings = {_meaning(name) for name in names}
    return TRAIN in meanings and None not in meanings


def split_pictures(names: Sequence[str], validation: bool) -> list[str]:
    """The split of each picture.

    Args:
        names: paths below the folder.
        validation: as `nelbo.data.load_data`.
    """
    meanings = [_meaning(name) for name in names]
    others = set(meanings) - {TRAIN}
    if not are_declared(names) or not others:
        return (
            split_by_name(names, validation=validation) if len(names) > 1 else [TRAIN] * len(names)
        )
    three = validation and others == {TEST, VALIDATION}
    splits = [
        VALIDATION if three and meaning == VALIDATION else TRAIN if meaning == TRAIN else TEST
        for meaning in meanings
    ]
    return splits if three or not validation else split_for_validation(names, splits)


def split_note(names: Sequence[str], validation: bool) -> str | None:
    """How the splits were formed, if the names of the folders leave it open or mislead."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    meanings = {top: _MEANINGS.get(top.casefold()) for top in tops}
    found = {meaning for meaning in meanings.values() if meaning is not None}
    if are_declared(names):
        if not validation or found != {TRAIN, VALIDATION}:
            return None
        test = _listed(top for top in tops if meanings[top] == VALIDATION)
        train = _listed(top for top in tops if meanings[top] == TRAIN)
        return (
            f"there is no test/: the pictures of {test} are the test split, and a tenth of those "
            f"of {train}, by their names, is the validation split"
        )
    if TRAIN not in found or len(found) < 2:
        return None
    beside = next(name for name in names if _meaning(name) is None)
    top, slash, _ = beside.partition("/")
    folders = _listed(top for top in tops if meanings[top] is not None)
    return (
        f"{folders} are not read as splits, because {printable(top + slash)} lies beside them: "
        "file names decide"
    )


def _meaning(name: str) -> str | None:
    top, slash, _ = name.partition("/")
    return _MEANINGS.get(top.casefold()) if slash else None


def _listed(tops: object) -> str:
    return " and ".join(f"{printable(top)}/" for top in sorted(tops))  # type: ignore[call-overload]
