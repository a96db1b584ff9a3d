"""`python -m tests.gpu`: check nelbo on a GPU against the CPU, and time it beside diffusers.

Exits with 0 where all checks pass, or where there is no GPU to check; with 1 otherwise.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tests.gpu.check import Check

# What the checks import, beside torch; `pip install -e '.[dev]'` has all of it.
NEEDED = (
    *("accelerate", "diffusers", "jaxtyping", "matplotlib", "numpy", "PIL", "psutil", "pytest"),
    *("rich", "safetensors", "scipy", "tokenizers", "transformers", "tyro", "yaml"),
)
# Seconds after which no check is started, so that the whole ends within eight minutes.
LIMIT = 400.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print a line for each; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__.partition("\n\n")[0]
    )
    parser.add_argument("only", nargs="*", help="run only checks whose names contain one of these")
    parser.add_argument(
        "--device",
        default="cuda",
        help="cuda; or, to test the checks themselves at a small size, cpu or pretended, a CPU "
        "whose tensors refuse to meet others",
    )
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds to start checks in")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args(arguments)
    if asked.device == "pretended":
        from tests.gpu.pretended import register

        device = register()
    else:
        device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"no CUDA device found by PyTorch {torch.__version__}: nothing to check")
        return 0
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"{sys.executable} has PyTorch but lacks {', '.join(missing)}: install them, for "
            "instance with pip install -e '.[dev]'"
        )
        return 1
    return run(_chosen(asked.only), device, asked.limit, asked.json)


def _chosen(only: Sequence[str]) -> list[Check]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from tests.gpu import chains, families, networks, speed, training

    parts = (networks, chains, families, training, speed)
    checks = [check for part in parts for check in part.checks()]
    return [c for c in checks if not only or any(text in c.name for text in only)]


def run(checks: Sequence[Check], device: torch.device, limit: float, file: Path | None) -> int:
    """Run checks one after another; 1 where one fails, otherwise 0.

    Args:
        checks: what to run.
        device: what they measure.
        limit: seconds after which none is started.
        file: where to write the figures as JSON.
    """
    import diffusers

    from tests.gpu.check import Failure

    diffusers.logging.set_verbosity_error()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"{name}, {versions}: {len(checks)} checks", flush=True)
    start = time.perf_counter()
    rows, failed, left = [], 0, 0
    for check in checks:
        if time.perf_counter() - start > limit:
            left += 1
            continue
        began = time.perf_counter()
        try:
            outcome, text = "ok", check.measure(device)
        except Failure as failure:
            outcome, text = "FAILED", str(failure)
        except Exception:  # any error of a check is a result
            outcome, text = "FAILED", traceback.format_exc()
        seconds = time.perf_counter() - began
        failed += outcome != "ok"
        rows.append({"check": check.name, "outcome": outcome, "figures": text, "seconds": seconds})
        print(f"{outcome:6} {check.name} ({seconds:.1f} s): {text}", flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if file is not None:
        file.write_text(
            json.dumps({"device": name, "versions": versions, "checks": rows}, indent=2)
        )
    skipped = f", {left} not started within {limit:g} s" if left else ""
    passed = len(rows) - failed
    print(f"{passed} passed, {failed} failed{skipped}, in {time.perf_counter() - start:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
