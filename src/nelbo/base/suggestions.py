"""Suggestions for mistyped names, as the end of a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

_SHOWN = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean a or b?)" for the known names that are similar to `name`; "" without any."""
    # However it is written: DDIM, dpm-solver.
    folded, typed = {_folded(each): each for each in known}, _folded(name)
    near = [typed] if typed in folded else get_close_matches(typed, folded, _SHOWN)
    return question([folded[each] for each in near])


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name: the known ones, and a similar one."""
    known = list(known)
    near = did_you_mean(name, known) if isinstance(name, str) else ""
    return f"unknown {what} {name!r}{near}: expected one of {', '.join(known)}"


def directories_near(path: Path) -> str:
    """Directories with a path similar to a missing one, or those beside it.

    The first wrong folder of the path is corrected, then the next; "" if nothing is similar.
    """
    here = [Path(path.anchor)]
    for part in Path(path.relative_to(path.anchor)).parts:
        below = [_mended(folder, part) for folder in here]
        if not any(below):
            break
        here = [folder for mended in below for folder in mended]
    else:
        return question([str(folder) for folder in here[:_SHOWN]])
    parent = path.parent
    beside = _folders(parent) if parent != Path() else []
    return f" ({parent} holds {listed(beside)})" if beside else ""


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of others, of which there are two or more."""
    shown = names[:_SHOWN] if len(names) > _SHOWN + 1 else names
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _folded(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def _mended(folder: Path, name: str) -> list[Path]:
    """The folder of that name, or those with similar names."""
    if name == ".." or (folder / name).is_dir():
        return [folder / name]
    return [folder / near for near in get_close_matches(name, _folders(folder), _SHOWN)]


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(p.name for p in parent.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError:
        return []


def question(names: Sequence[str]) -> str:
    """ " (did you mean a or b?)" for names; "" for none."""
    return f" (did you mean {' or '.join(names)}?)" if names else ""
