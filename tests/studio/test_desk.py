"""One task at a time, in turn, up to a bound; given up at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from nelbo import NelboError
from nelbo.studio.desk import Busy, Cancelled, Desk, Event, Task
from nelbo.studio.form import Form
from nelbo.studio.limits import Limits
from nelbo.studio.shelf import Shelf
from nelbo.studio.tasks import generate
from tests.children import PATIENCE


class Events(list):
    """What a task posted, and when it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def post(self, event: Event) -> None:
        self.append(event)
        if event["type"] in ("done", "cancelled", "error"):
            self.ended.set()

    def wait(self) -> list[str]:
        assert self.ended.wait(PATIENCE)
        return [event["type"] for event in self]


def submit(desk: Desk, work, size: int = 0) -> tuple[Task, Events]:
    events = Events()
    task = Task(work, events.post, size)
    desk.submit(task)
    return task, events


@pytest.fixture
def desk():
    desk = Desk(waiting=3, queued_bytes=100)
    yield desk
    desk.close()
    desk.join(5)


def held(desk: Desk) -> tuple[threading.Event, Events]:
    """A task that runs until it is let go."""
    go, running = threading.Event(), threading.Event()

    def work() -> Iterator[Event]:
        running.set()
        assert go.wait(60)
        yield {"type": "result"}

    _, events = submit(desk, work)
    assert running.wait(PATIENCE)
    return go, events


def quick() -> Iterator[Event]:
    yield {"type": "result"}


def test_tasks_wait_in_turn_and_know_their_place(desk):
    go, first = held(desk)
    others = [submit(desk, quick) for _ in range(3)]
    with pytest.raises(Busy):
        submit(desk, quick)
    desk.cancel(others[0][0])
    submit(desk, quick)
    go.set()
    assert first.wait()[-1] == "done"
    assert others[1][1].wait()[-3:] == ["started", "result", "done"]
    places = [event["place"] for event in others[1][1] if event["type"] == "place"]
    assert places[0] == 2
    assert places[-1] <= 1
    assert not others[0][1].ended.is_set()


def test_what_waits_together_is_bounded_in_bytes(desk):
    go, _ = held(desk)
    submit(desk, quick, 60)
    with pytest.raises(Busy):
        submit(desk, quick, 60)
    go.set()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NelboError("give another"), "give another"),
        (MemoryError(), "The memory does not suffice"),
        (KeyError("x"), "KeyError: 'x'. The terminal shows where"),
    ],
)
def test_a_task_that_fails_leaves_the_desk_well(desk, capsys, error, message):
    def work() -> Iterator[Event]:
        yield {"type": "progress"}
        raise error

    _, events = submit(desk, work)
    assert events.wait()[-1] == "error"
    assert events[-1]["message"].startswith(message)
    _, events = submit(desk, quick)
    assert events.wait()[-1] == "done"


def test_a_cancelled_task_stops_between_two_events(desk):
    seen = threading.Event()

    def work() -> Iterator[Event]:
        while True:
            seen.set()
            yield {"type": "progress"}

    task, events = submit(desk, work)
    assert seen.wait(PATIENCE)
    desk.cancel(task)
    assert events.wait()[-1] == "cancelled"


def test_a_cancelled_task_stops_in_the_middle_of_a_step(desk, digits):
    """A layer of the network waits for the cancellation, and none after it is called."""
    shelf = Shelf({"digits": str(digits)}, torch.device("cpu"), desk.check)
    model = shelf.model("digits").model
    within, cancelled, calls = threading.Event(), threading.Event(), []
    layers = [layer for layer in model.modules() if not list(layer.children())]

    def reached(i: int):
        def hook(*_) -> None:
            calls.append(i)
            if i == 3:
                within.set()
                cancelled.wait(PATIENCE)

        return hook

    for i, layer in enumerate(layers):
        layer.register_forward_hook(reached(i))
    asked = generate.read(Form({"model": "digits", "steps": 5}, limits=Limits()))
    task, events = submit(desk, lambda: asked.run(shelf))
    assert within.wait(PATIENCE)
    desk.cancel(task)
    cancelled.set()
    assert events.wait()[-1] == "cancelled"
    assert calls[-1] == 3
    assert len(layers) - 1 > 3


def test_closing_gives_everything_up(desk):
    go, running = held(desk)
    _, waiting = submit(desk, quick)
    desk.close()
    go.set()
    desk.join(5)
    assert running.wait()[-1] == "cancelled"
    assert waiting.wait()[-1] == "cancelled"
    with pytest.raises(Busy):
        submit(desk, quick)


def test_cancellation_is_no_exception_that_a_library_might_handle():
    assert not issubclass(Cancelled, Exception)
