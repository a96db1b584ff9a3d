"""What a run was: how long it trained, on what, and how often it saw its images."""

from __future__ import annotations

from nelbo.training.pace import passes


def passes_text(steps: int, batch_size: int, examples: int | None) -> str:
    """How often each image was seen; empty for a stream."""
    if not examples:
        return ""
    count = passes(steps, batch_size, examples)
    return f"{count:,.0f} passes" if count >= 10 else f"{count:.1f} passes"
