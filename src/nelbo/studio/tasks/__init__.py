"""What the page can ask for: each task is read from a form, checked, and yields events.

A task is a module with `read(form)`, which raises `NelboError` before anything waits in the queue,
and gives an object whose `run(shelf)` yields the events of the task.
"""

from __future__ import annotations

# The modules, which import torch, by the name in the address.
TASKS = (
    "open",
    "generate",
    "edit",
    "evaluate",
    "rank",
    "classify",
    "process",
    "compare",
    "families",
)
