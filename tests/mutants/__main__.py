"""`python -m tests.mutants`: the share of planted mistakes that the tests catch, by module.

Each mutant is a fork of this process, in which torch and the other libraries are loaded already.
The fork reads the mutated source where the module is imported, runs the tests of the module in
itself and ends with their result; no file of the package is touched. What was found is kept in a
file, one line a mutant, so that a run that is cut short goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from tests.mutants.modules import MODULES
from tests.mutants.mutations import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "nelbo"
CAUGHT, SURVIVED, SLOW = "caught", "survived", "caught by the time"
# A mutant that computes for so much longer than the tests is one that never ends.
_LONGER, _LEAST_SECONDS = 4, 20
_TARGET = 0.9


def main() -> None:
    """Plant, test, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="below src/nelbo; by default all")
    parser.add_argument("--count", type=int, help="mutants of each module; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--file", type=Path, default=ROOT / ".mutants" / "found.jsonl")
    parser.add_argument("--show", action="store_true", help="print the survivors, run nothing")
    asked = parser.parse_args()
    unknown = [name for name in asked.modules if name not in MODULES]
    if unknown:
        parser.error(f"unknown modules {', '.join(unknown)}: expected some of {', '.join(MODULES)}")
    names = asked.modules or list(MODULES)
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    if not asked.show:
        _preload()
        for name in names:
            _test_module(name, asked.count, asked.seed, asked.file)
    sys.exit(0 if _report(names, asked.file) else 1)


def _test_module(name: str, count: int | None, seed: int, file: Path) -> None:
    path, tests = PACKAGE / name, MODULES[name]
    code = path.read_text(encoding="utf-8")
    version = _version(code)
    known = {
        row["mutant"] for row in _rows(file) if row["module"] == name and row["version"] == version
    }
    todo = [m for m in islice(mutants_of(code, seed), count) if m.name not in known]
    if not todo:
        return
    result, seconds = _in_fork(lambda: _run_tests(tests))
    if result != 0:
        sys.exit(f"the tests of {name} fail without a mutant: {' '.join(tests)}")
    limit = max(_LEAST_SECONDS, _LONGER * seconds)
    print(f"{name}: {len(todo)} mutants, of {seconds:.0f} s of the tests at most each", flush=True)
    for mutant in todo:
        result, _ = _in_fork(lambda mutant=mutant: _run_mutant(path, mutant, code, tests), limit)
        outcome = {0: SURVIVED, None: SLOW}.get(result, CAUGHT)
        row = {"module": name, "version": version, "mutant": mutant.name, "outcome": outcome}
        row |= {"line": mutant.start[0], "mistake": _difference(code, mutant)}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        if outcome == SURVIVED:
            print(f"  survived: {name}:{mutant.start[0]} {row['mistake']}", flush=True)


def _preload() -> None:
    """Import what the tests import, but for the package itself."""
    import beartype
    import diffusers
    import hypothesis
    import jaxtyping
    import matplotlib.figure
    import PIL.Image
    import pytest
    import safetensors.torch
    import scipy.stats
    import torch
    import transformers

    for library in (beartype, diffusers, hypothesis, jaxtyping, matplotlib, PIL, pytest):
        assert library is not None
    for library in (safetensors, scipy, transformers):
        assert library is not None
    torch.set_num_threads(1)
    assert not any(name.partition(".")[0] == "nelbo" for name in sys.modules)


def _in_fork(work: Callable[[], int], seconds: float | None = None) -> tuple[int | None, float]:
    """The result of some work in a fork, None where it takes too long, and its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        result = 3
        try:
            if seconds is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            result = work()
        finally:
            os._exit(result)
    deadline = None if seconds is None else time.monotonic() + 20 * seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if deadline is not None and time.monotonic() > deadline:  # one that waits for ever
            os.kill(child, 9)
            deadline = None
        time.sleep(0.05)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else None), used


def _run_mutant(path: Path, mutant: Mutant, code: str, tests: tuple[str, ...]) -> int:
    """As `_run_tests`, of the package with one mistake."""
    mutated = mutant.source(code).encode()
    loader = importlib.machinery.SourceFileLoader
    read, stat = loader.get_data, loader.path_stats

    def get_data(self: object, file: str) -> bytes:
        return mutated if Path(file) == path else read(self, file)  # type: ignore[arg-type]

    def path_stats(self: object, file: str) -> object:
        found = stat(self, file)  # type: ignore[arg-type]
        # Other than that of any compiled file, which so is not read in place of the source.
        return {**found, "mtime": -1} if Path(file) == path else found

    loader.get_data, loader.path_stats = get_data, path_stats  # type: ignore[method-assign,assignment]
    return _run_tests(tests)


def _run_tests(tests: tuple[str, ...]) -> int:
    """Exit status of pytest at the first failure; nothing is printed."""
    import pytest

    sys.dont_write_bytecode = True
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    scratch = tempfile.mkdtemp(prefix="mutant-")
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/tests"]
    try:
        return int(pytest.main([*options, f"--rootdir={ROOT}", *(str(ROOT / t) for t in tests)]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _report(names: list[str], file: Path) -> bool:
    """Print the share caught of each module and the survivors; whether all reach the target."""
    print(f"\n{'module':34}{'mutants':>8}{'caught':>8}{'share':>8}")
    rows = _rows(file)
    reached = True
    survivors = []
    for name in names:
        version = _version((PACKAGE / name).read_text(encoding="utf-8"))
        own = [row for row in rows if row["module"] == name and row["version"] == version]
        lived = [row for row in own if row["outcome"] == SURVIVED]
        survivors += lived
        if not own:
            print(f"{name:34}{'—':>8}")
            continue
        share = 1 - len(lived) / len(own)
        reached &= share >= _TARGET
        print(f"{name:34}{len(own):8}{len(own) - len(lived):8}{share:8.0%}")
    if survivors:
        print("\nSurvivors:")
    for row in survivors:
        print(f"  {row['module']}:{row['line']}  {row['mistake']}")
    return reached


def _difference(code: str, mutant: Mutant) -> str:
    """The first line that differs, before and after."""
    pairs = zip(code.splitlines(), mutant.source(code).splitlines(), strict=False)
    return next((f"{a.strip()}  →  {b.strip()}" for a, b in pairs if a != b), "")


def _version(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()
