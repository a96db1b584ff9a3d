"""How soon the studio answers: start, page, first preview, a picture, first bits.

    python benchmarks/studio.py [--run RUN] [--repeats 5] [--json FILE] [--no-browser]

A server is started as users start it, asked as the page asks, and timed by the clock and by the
processor time of its process: the first is what a user of an idle machine waits for, the second
depends less on what else is running. What is asked is repeated with other seeds; shown are the
median, the lowest and the highest. The page is timed in a headless Chromium.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

PROMPT = "red apple"
STEPS = 25
ERROR = 0.005


COLUMNS = ("seconds", "processor", "error")
Times = dict[str, dict[str, float]]


class Clock:
    """Seconds since it was made, by the clock and of a process."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._begun, self._used = time.perf_counter(), self._cpu()

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._begun,
            "processor": self._cpu() - self._used,
        }

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def events(
    address: str, task: str, settings: dict[str, Any], image: bytes | None = None
) -> Iterator[dict[str, Any]]:
    files: list[Any] = [("settings", (None, json.dumps(settings)))]
    if image is not None:
        files.append(("image", ("image.png", image, "image/png")))
    with httpx.stream("POST", f"{address}/api/{task}", files=files, timeout=600) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event["type"] == "error":
                    raise RuntimeError(event["message"])
                yield event


def page_ready(address: str) -> float | None:
    """Seconds from asking for the page to when its controls work; None without Chromium."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.binary_location = browser
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        begun = time.perf_counter()
        chrome.get(address)
        while not chrome.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        chrome.quit()


def measure(run: str, browser: bool, repeats: int) -> dict[str, list[dict[str, float]]]:
    """All measurements of each thing, by its name."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as written:
            command = [sys.executable, "-m", "nelbo", "studio", run, "--port", "0"]
            server = subprocess.Popen(command, stderr=written)
        try:
            clock = Clock(psutil.Process(server.pid))
            while not (address := re.search(r"http://[\d.]+:\d+", log.read_text())):
                time.sleep(0.02)
            httpx.get(address[0], timeout=60).raise_for_status()
            found["server start"] = [clock.read()]
            for _ in events(address[0], "open", {"model": run}):
                pass
            found["start until the model is open"] = [clock.read()]
            for _ in range(repeats if browser else 0):
                if (seconds := page_ready(address[0])) is not None:
                    found.setdefault("page interactive", []).append({"seconds": seconds})
            for seed in range(repeats):
                times = _tasks(address[0], run, psutil.Process(server.pid), seed)
                for name, each in times.items():
                    found.setdefault(name, []).append(each)
        finally:
            server.terminate()
            begun = time.perf_counter()
            server.wait()
            found["end after SIGTERM"] = [{"seconds": time.perf_counter() - begun}]
    return found


def _tasks(address: str, run: str, process: psutil.Process, seed: int) -> Times:
    found: Times = {}
    clock = Clock(process)
    asked = {"model": run, "prompt": PROMPT, "steps": STEPS, "n": 1, "seed": seed}
    drawn = b""
    for event in events(address, "generate", asked):
        if event.get("previews") and "first preview" not in found:
            found["first preview"] = clock.read()
        if event["type"] == "picture":
            found[f"a picture of {STEPS} steps"] = clock.read()
            drawn = base64.b64decode(event["url"].partition(",")[2])
    clock, first = Clock(process), None
    asked = {"model": run, "error": ERROR, "seed": seed}
    for event in events(address, "evaluate", asked, drawn):
        if event["type"] != "estimate":
            continue
        if first is None:
            first = event["error"]
            found["first bits"] = {**clock.read(), "error": first}
        elif event["error"] <= first / 2:
            found["error halved"] = {**clock.read(), "error": event["error"]}
            break
    return found


def shown(values: list[float]) -> str:
    """The median, with the lowest and the highest."""
    if not values:
        return ""
    middle = statistics.median(values)
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{middle:.3g}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="emoji")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args()
    found = measure(options.run, not options.no_browser, options.repeats)
    table = Table("", "seconds", "processor seconds", "± bits/dim")
    for name, times in found.items():
        columns = [[each[key] for each in times if key in each] for key in COLUMNS]
        table.add_row(name, *map(shown, columns))
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
