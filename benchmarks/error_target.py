"""Bias, error and coverage of `evaluate_to_error` over many whole evaluations, by the costs.

    python benchmarks/error_target.py [--repetitions 500]

The costs of the network are drawn from a distribution (`tests/costs.py`), so that the exact bound
is known and an evaluation takes milliseconds. All figures are in units of the target error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.evidence.test_error_target import repeat

CASES = [
    ("exponential", 20, 0.2),
    ("squared", 5, 0.4),
    ("squared", 100, 0.1),
    ("lognormal", 20, 0.2),
    ("normal", 1, 0.4),
    ("nearly constant", 100, 0.1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    repetitions = parser.parse_args().repetitions
    for kind, n, target in CASES:
        found = repeat(kind, n, target, repetitions)
        figures = ", ".join(f"{name} {value:+.3f}" for name, value in found.items())
        print(f"{kind}, {n} images, target {target}: {figures}", flush=True)


if __name__ == "__main__":
    main()
