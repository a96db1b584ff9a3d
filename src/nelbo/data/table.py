"""What is asked of a table of pictures: its rows and columns, and which of its splits are which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nelbo.base.errors import NelboError
from nelbo.data.declared import TEST_FOLDERS, VALIDATION_FOLDERS
from nelbo.data.splits import TEST, TRAIN, VALIDATION

# The number of images of each split of a streamed set that are kept for evaluation.
_KEPT = 2000
OPTIONS = (
    *("config", "revision", "train", "validation", "test", "image", "label", "caption"),
    *("max_images", "stream", "crops"),
)


@dataclass(frozen=True)
class Table:
    """Where rows come from.

    Attributes:
        source: what the user typed.
        path: a Hub id, a parquet file, or a folder of them.
        options: see `nelbo.data.hub`; any of `OPTIONS`.

    Raises:
        NelboError: an unknown option, or a max_images that is no number.
    """

    source: str
    path: str
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.options:
            if name not in OPTIONS:
                raise NelboError(
                    f"{self.source}: unknown option {name!r}; expected one of {', '.join(OPTIONS)}"
                )
        for name in ("max_images", "stream", "crops"):
            if self._number(name) == 0:
                raise NelboError(f"{self.source}: {name} must be at least 1")
        if self.stream is not None and self.crops > 1:
            raise NelboError(f"{self.source}: a stream gives each row once: leave crops out")

    @property
    def max_images(self) -> int | None:
        """The largest number of images of each split; None for all."""
        return self._number("max_images")

    @property
    def stream(self) -> int | None:
        """The size of the shuffle buffer, in rows, if training streams the set; otherwise None."""
        return self._number("stream")

    @property
    def crops(self) -> int:
        """How many crops a row to train on gives."""
        return self._number("crops") or 1

    def kept(self) -> Table:
        """The rows of a streamed set that are decoded into the cache."""
        options = {"max_images": str(_KEPT), **self.options}
        del options["stream"]
        return replace(self, options=options)

    def _number(self, name: str) -> int | None:
        text = self.options.get(name)
        if text is None:
            return None
        if not text.isdecimal():
            raise NelboError(f"{self.source}: {name} is {text!r}; expected a whole number")
        return int(text)

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return Path(self.path).exists()


@dataclass(frozen=True)
class Parts:
    """The names of a table's splits; a missing split is taken from the rows of train.

    Attributes:
        train: name of the training split.
        validation: name of the validation split, or None.
        test: name of the test split, or None.
        carves: whether there is a validation split, if need be from rows of train.
        note: a line on how splits were assigned, if their names leave it open.
    """

    train: str
    validation: str | None
    test: str | None
    carves: bool
    note: str | None = None

    @classmethod
    def of(cls, table: Table, names: list[str], validation: bool) -> Parts:
        """Assign splits by the options, or else by their names.

        Raises:
            NelboError: an option names an unknown split.
        """
        for option in (TRAIN, VALIDATION, TEST):
            wanted = table.options.get(option)
            if wanted is not None and wanted not in names:
                raise NelboError(
                    f"{table.source} has no split {wanted!r}; it has {', '.join(names)}"
                )
        default = "train" if "train" in names else names[0]
        train = table.options.get(TRAIN, default)
        chosen = table.options.get(VALIDATION)
        free = [name for name in names if name not in (train, chosen)]
        declared = [name for name in VALIDATION_FOLDERS if name in free]
        test = table.options.get(TEST)
        if test is None:
            named = [name for name in TEST_FOLDERS if name in free]
            test = next(iter([*named, *declared]), None)
        if not validation:
            return cls(train, None, test, carves=False)
        found = chosen or next((name for name in declared if name != test), None)
        note = None
        if test in VALIDATION_FOLDERS and TEST not in table.options:
            note = (
                f"there is no split test: {test} is the test split, and every tenth row "
                f"of {train} is for validation; with ?validation={test} it is the validation "
                f"split, and every tenth row of {train} is for test"
            )
        return cls(train, found, test, carves=True, note=note)

    @property
    def names(self) -> tuple[str, ...]:
        """The names whose rows are read, each once."""
        found = (self.train, self.validation, self.test)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def split_of(self, name: str, i: int) -> str:
        """The split of a row."""
        if name == self.test:
            return TEST
        if name == self.validation:
            return VALIDATION
        if self.test is None and i % 10 == 9:
            return TEST
        is_eighth = self.carves and self.validation is None and i % 10 == 8
        return VALIDATION if is_eighth else TRAIN
