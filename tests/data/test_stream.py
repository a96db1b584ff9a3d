"""Sets that are read as training needs them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count, islice

import numpy as np
import pytest
import torch

from nelbo import NelboError
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.data.stream import AHEAD, ImageStream, StreamedBatch, StreamedRow, shuffled
from nelbo.runs.checkpoints import Checkpoints
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds.latent.latents import encode_data
from nelbo.training.kinds.pixel.build import build_model
from nelbo.training.kinds.pixel.options import ModelConfig
from nelbo.training.kinds.pixel.task import pixel_task
from nelbo.training.state import restore, state_of
from nelbo.training.trainer import Trainer
from tests.children import command, wait_until
from tests.data.test_hub import table, with_splits
from tests.faults.test_killed import wait_for
from tests.faults.test_mistakes import mistake
from tests.training.test_checkpoints import everything
from tests.training.test_latents import text_model

ROWS = 30


def test_the_buffer_shuffles_and_holds_no_more_than_it_may():
    rows = range(1, 1001)
    taken: list[int] = []
    order = []
    for row in shuffled((taken.append(r) or r for r in rows), 50, seed=1, epoch=0):
        order.append(row)
        assert len(taken) - len(order) <= 50
    assert sorted(order) == list(rows)
    ahead = np.array(order) - np.array(rows)
    assert ahead.max() < 50
    # A row waits for a geometrically distributed time: its standard deviation is the buffer's size.
    assert 35 < ahead[100:900].std() < 65
    assert order == list(shuffled(rows, 50, seed=1, epoch=0))
    assert order != list(shuffled(rows, 50, seed=1, epoch=1))
    assert order != list(shuffled(rows, 50, seed=2, epoch=0))


def numbered(count: int = 10, broken: tuple[int, ...] = ()) -> ImageStream:
    def row(i: int) -> StreamedRow:
        pixels = "torn" if i in broken else np.full((1, 1, 1), i, dtype=np.uint8)
        return StreamedRow(f"#{i}", i, lambda: pixels)

    return ImageStream(lambda: map(row, range(count)), buffer=4)


def test_any_place_of_the_stream_is_found_again():
    stream = numbered().seeded(3)
    forward = [stream.batch(first, 4).labels.tolist() for first in range(0, 40, 4)]
    epochs = np.array(forward).reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for first in (36, 4, 24, 24, 0, 16):  # backwards, and the same again
        assert stream.batch(first, 4).labels.tolist() == forward[first // 4]
    other = numbered().seeded(3)
    other.batch(20, 4)
    assert (other.epoch, other.first) == (2, 20)
    fresh = numbered().seeded(3)
    fresh.seek(2, 20)
    assert fresh.batch(28, 4).labels.tolist() == forward[7]
    with pytest.raises(NelboError, match="stream of pictures is empty"):
        numbered(0).batch(0, 1)


def test_a_longer_batch_begins_with_the_rows_that_were_read():
    opened, stream = [], numbered().seeded(3)
    whole = [stream.batch(first, 12) for first in (0, 12)]
    rows = stream.open_rows
    grown = ImageStream(lambda: opened.append(1) or rows(), buffer=4, seed=3)
    for first, expected in zip((0, 12), whole, strict=True):
        grown.batch(first, 1)
        found = grown.batch(first, 12)
        assert found.labels.tolist() == expected.labels.tolist()
        assert (found.epoch, found.began) == (expected.epoch, expected.began)
    assert len(opened) == 3  # an epoch has 10 rows, and none is begun again


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "nelbo-read-ahead" and t.is_alive()]


def test_what_is_read_ahead_is_what_comes_next():
    plain, ahead = numbered().seeded(3), numbered().seeded(3)
    places = [*range(0, 40, 4), 36, 8, 12, 100, 104, 0]  # and elsewhere, and back
    with ahead.reading_ahead([slice(0, 2), slice(2, 4)]):
        for first in places:
            expected, found = plain.batch(first, 4), ahead.batch(first, 4)
            assert found.labels.tolist() == expected.labels.tolist()
            for part in (slice(0, 2), slice(2, 4), slice(1, 4)):
                assert torch.equal(found.images(part), expected.images(part))
            assert (ahead.epoch, ahead.first) == (plain.epoch, plain.first)
        assert readers()
    assert not readers()
    assert ahead.batch(4, 4).labels.tolist() == plain.batch(4, 4).labels.tolist()


class Watched:
    """An endless stream that counts which rows were opened and decoded."""

    def __init__(self, breaks_at: int | None = None, seconds: float = 0.0) -> None:
        self.opened = self.decoded = 0
        self.breaks_at, self.seconds = breaks_at, seconds
        self.stream = ImageStream(self.rows, buffer=1)

    def rows(self) -> Iterator[StreamedRow]:
        for i in count():
            self.opened += 1
            time.sleep(self.seconds)
            if i == self.breaks_at:
                raise NelboError("the Hub is gone")
            yield StreamedRow(f"#{i}", i, self.decode)

    def decode(self) -> np.ndarray:
        self.decoded += 1
        return np.zeros((1, 1, 1), dtype=np.uint8)


def test_no_more_is_read_ahead_than_is_said():
    watched = Watched()
    with watched.stream.reading_ahead([slice(0, 3)]):
        for step in range(4):
            watched.stream.batch(5 * step, 5)
            # Of each batch this process's part, while nobody asks for it; one row is in the buffer.
            wait_until(lambda: watched.decoded == 3 * (step + 1 + AHEAD))  # noqa: B023
            time.sleep(0.02)
            assert watched.decoded == 3 * (step + 1 + AHEAD)
            assert watched.opened == 5 * (step + 1 + AHEAD) + 1
    assert not readers()


def test_what_cannot_be_read_is_said_where_it_is_asked_for():
    watched = Watched(breaks_at=9)
    with watched.stream.reading_ahead([slice(0, 4)]):
        for first in (0, 4):
            watched.stream.batch(first, 4)
        with pytest.raises(NelboError, match="the Hub is gone"):
            watched.stream.batch(8, 4)
        assert not readers()
        watched.breaks_at = None
        assert watched.stream.batch(8, 4).labels.tolist() == [8, 9, 10, 11]
    torn = numbered(broken=tuple(range(10)))
    with torn.reading_ahead([slice(0, 4)]):
        with pytest.raises(
            NelboError, match=r"none of 4 pictures can be read; the first: #\d: torn"
        ):
            torn.batch(0, 4)
        assert not readers()


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the suite was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_nothing_is_left_behind_by_what_breaks_off():
    watched = Watched(seconds=0.001)
    interrupt = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])

    def read_until_interrupted():
        interrupt.start()
        watched.stream.batch(1_000_000, 2)  # at least 1,000 seconds away

    with watched.stream.reading_ahead([slice(0, 2)]):
        watched.stream.batch(0, 2)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            read_until_interrupted()
    assert time.monotonic() - began < 500
    assert not readers()
    opened = watched.opened
    time.sleep(0.05)
    assert watched.opened == opened


def test_in_place_of_a_broken_picture_comes_the_next():
    rows = tuple(islice(numbered(broken=(1, 2, 5)).open_rows(), 6))
    batch = StreamedBatch(rows)
    assert batch.images(slice(0, 6)).flatten().tolist() == [0, 3, 3, 3, 4, 0]
    assert batch.images(slice(4, 6)).flatten().tolist() == [4, 0]  # whatever the part
    assert batch.labels.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(NelboError, match="none of 2 pictures can be read; the first: #1: torn"):
        StreamedBatch(rows[1:3]).images(slice(0, 1))


@pytest.fixture
def tables(tmp_path) -> str:
    folder = tmp_path / "tables"
    options = {"side": 8, "classes": ["a", "b", "c"]}
    with_splits(folder, table(ROWS, **options), table(5, start=100, **options))
    return f"{folder}?stream=8&max_images=6"


def test_a_streamed_table(tables):
    train, test = (load_data(tables, split, size=8, channels=1) for split in ("train", "test"))
    # Of the six rows that are kept one is for validation, though none of them is an eighth.
    validation = load_data(tables, "validation", size=8, channels=1)
    (held,) = (int(name.removeprefix("train #")) for name in validation.names)
    assert 0 <= held < 6
    assert (len(train), len(test)) == (5, 5)  # what is kept to evaluate on
    assert test.stream is None
    assert train.take(slice(0, 3)).stream is None
    seen = train.stream.batch(0, ROWS)
    levels = seen.images(slice(0, ROWS))[:, 0, 0, 0].tolist()
    kept = [i for i in range(ROWS) if i % 10 != 8 and i != held]
    # An epoch, and the first rows of the next.
    assert sorted(levels[: len(kept)]) == kept
    assert levels[: len(kept)] != kept
    assert seen.labels.tolist() == [level % 3 for level in levels]
    whole = load_data(tables.partition("?")[0], "train", size=8, channels=1)
    for level, image in zip(levels, seen.images(slice(0, ROWS)), strict=True):
        assert torch.equal(image, whole.images[whole.names.index(f"train #{level}")])
    colour = load_data(tables, "train", size=16)
    with pytest.raises(NelboError, match="is a stream, and latents are encoded once"):
        encode_data(text_model(), colour, ["x"] * len(colour))


def test_without_splits_of_its_own_every_tenth_row_is_for_test_and_another_for_validation(tmp_path):
    path = tmp_path / "one.parquet"
    table(ROWS, side=8).to_parquet(path)
    stream = load_data(f"{path}?stream=5", "train", size=8, channels=1).stream
    names = {row.name for row in stream.batch(0, 24).rows}
    assert names == {f"train #{i}" for i in range(ROWS) if i % 10 not in (8, 9)}
    before = load_data(f"{path}?stream=5", "train", size=8, channels=1, validation=False).stream
    names = {row.name for row in before.batch(0, 27).rows}
    assert names == {f"train #{i}" for i in range(ROWS) if i % 10 != 9}
    assert load_data(f"{path}?stream=5", "validation", size=8).names == (
        "train #8",
        "train #18",
        "train #28",
    )
    assert load_data(f"{path}?stream=5", "test", size=8).names == (
        "train #9",
        "train #19",
        "train #29",
    )


def test_training_on_a_stream_goes_on_to_the_last_bit(tables, monkeypatch):
    def trainer() -> Trainer:
        torch.manual_seed(0)
        data = load_data(tables, "train", size=8, channels=1)
        model = build_model(ModelConfig(widths=(8,), levels=5, class_conditional=True), data)
        config = TrainingConfig(steps=8, batch_size=7, gradient_accumulation=2, warmup_steps=1)
        return Trainer(pixel_task(model, data, config))

    unbroken = trainer()
    list(unbroken.run())
    broken = trainer()
    for step in broken.run():
        if step.step == 6:  # in the middle of the second epoch
            break
    state = state_of(broken)
    assert "data" not in state.tensors
    # Where it began: an epoch has neither the rows for validation nor the one that is kept for it.
    assert state.progress["stream"] == [1, ROWS - 4]
    resumed = trainer()
    resumed.rehearse()
    restore(resumed, state)
    assert [step.step for step in resumed.run()] == [7, 8]
    for a, b in zip(everything(unbroken), everything(resumed), strict=True):
        assert torch.equal(a, b)
    assert not readers()
    # As without a thread.
    monkeypatch.setattr(ImageStream, "reading_ahead", lambda *_: nullcontext())
    plain = trainer()
    list(plain.run())
    for a, b in zip(everything(unbroken), everything(plain), strict=True):
        assert torch.equal(a, b)


def test_ctrl_c_ends_training_on_a_stream(tables, tmp_path):
    out = tmp_path / "run"
    options = ["--size", "8", "--channels", "1", "--widths", "8", "--levels", "4", "--threads", "1"]
    often = ["--batch-size", "4", "--steps", "1000000", "--save-every", "0.05s"]
    child = command("train", tables, "--out", out, *options, *often, log=tmp_path / "log")
    wait_for(out, 2)
    child.send(signal.SIGINT)
    assert child.join() == 130
    assert "stopped at step" in child.message
    assert "Traceback" not in child.message


@pytest.mark.usefixtures("ends_with_the_model")
def test_on_the_command_line(tables, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--size", "8", "--channels", "1", "--widths", "8", "--levels", "4", "--threads", "1"]
    brief = ["--batch-size", "4", "--evaluate-images", "3", "--evaluate-levels", "1"]
    main(["train", tables, "--out", str(out), "--steps", "2", *options, *brief])
    assert "Training on a stream of" in capsys.readouterr().err
    main(["train", "--resume", "--out", str(out), "--steps", "4"])
    assert Checkpoints(out / "training").steps()[-1] == 4
    latent = ["--model", "latent", "--steps", "4", "--out", tmp_path / "latent"]
    assert "is a stream, and latents" in mistake(capsys, "train", tables, *latent)
    assert not (tmp_path / "latent").exists()
    path = tables.partition("?")[0]
    for options, message in (("stream=0", "stream must be at least 1"), ("stream=x", "'x'")):
        assert message in mistake(capsys, "data", f"{path}?{options}")
