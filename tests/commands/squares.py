"""Squares of a few colours and sizes, each with a caption."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

COLOURS = {"red": (220, 30, 40), "blue": (20, 60, 200), "green": (20, 160, 60)}


def draw_squares(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for i in range(48):
        colour, margin = list(COLOURS)[i % 3], 1 + i // 3 % 3
        image = Image.new("RGB", (8, 8), "white")
        image.paste(COLOURS[colour], (margin, margin, 8 - margin, 8 - margin))
        image.putpixel((0, 0), (i, i, i))  # no two alike
        image.save(folder / f"{i:02}.png")
        rows.append({"file_name": f"{i:02}.png", "text": f"{colour} square of {8 - 2 * margin}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
