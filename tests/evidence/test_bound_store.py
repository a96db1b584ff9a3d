"""A store of bounds: each batch is computed once, by one process, and read as it was."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nelbo import NelboError
from nelbo.chain.evidence import Costs
from nelbo.evidence.bound_store import BoundStore, stored_settings

SETTINGS = {"weights": "abc", "seed": 3}


def costs(index: int) -> Costs:
    """Of `index + 1` images, the n-th of which costs n nats and n + 1 calls."""
    n = torch.arange(index + 1)
    return Costs("exact", {"cost": n.double()}, 10, n + 1)


def collected(store: BoundStore, batches: int = 4, stage: int = 0) -> tuple[list[Costs], list[int]]:
    """The bounds of all batches, and of which batches they were computed."""
    computed: list[int] = []

    def compute(index: int) -> Costs:
        computed.append(index)
        return costs(index)

    return list(store.collect(stage, batches, compute)), computed


def check(found: list[Costs]) -> None:
    for index, bound in enumerate(found):
        assert bound.terms["cost"].tolist() == list(range(index + 1))
        assert bound.calls.tolist() == list(range(1, index + 2))
        assert (bound.kind, bound.dims) == ("exact", 10)


def test_a_batch_is_computed_once_and_read_as_it_was(tmp_path):
    """Of batches with 1, 3, 6 and 10 calls."""
    where = tmp_path / "made" / "bounds"
    first = BoundStore(where, SETTINGS)
    assert not first.is_complete(0, 1)
    found, computed = collected(first)
    check(found)
    assert len(found) == 4
    assert computed == [0, 1, 2, 3]
    assert first.stored_calls == 0
    again = BoundStore(where, dict(reversed(SETTINGS.items())))
    assert again.is_complete(0, 4)
    assert not again.is_complete(0, 5)
    assert not again.is_complete(1, 1)
    found, computed = collected(again)
    check(found)
    assert computed == []
    assert again.stored_calls == 1 + 3 + 6 + 10
    # One of them is gone.
    (where / "00-000002.safetensors").unlink()
    broken = BoundStore(where, SETTINGS)
    found, computed = collected(broken)
    check(found)
    assert computed == [2]
    assert broken.stored_calls == 1 + 3 + 10


def test_stages_are_apart(tmp_path):
    store = BoundStore(tmp_path, SETTINGS)
    collected(store, 2)
    found, computed = collected(store, 3, stage=12)
    assert computed == [0, 1, 2]
    check(found)
    names = {file.name for file in tmp_path.glob("*.safetensors")}
    stages = {name.removesuffix(".safetensors") for name in names}
    assert stages == {"00-000000", "00-000001", "12-000000", "12-000001", "12-000002"}


@pytest.mark.parametrize("batches", [1, 5, 6])
def test_processes_share_the_batches(tmp_path, batches, monkeypatch):
    """Each computes those of its rank, whoever is first, and has all of them at the end."""
    monkeypatch.setattr("nelbo.evidence.bound_store._POLL_SECONDS", 0.01)
    ends: dict[int, tuple[list[Costs], list[int]]] = {}

    def work(rank: int) -> None:
        ends[rank] = collected(BoundStore(tmp_path, SETTINGS, rank=rank, count=3), batches)

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in (2, 0, 1)]
    BoundStore(tmp_path, SETTINGS)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    for rank in range(3):
        found, computed = ends[rank]
        assert computed == list(range(rank, batches, 3))
        assert len(found) == batches
        check(found)


def test_one_s_own_batches_come_before_those_of_others(tmp_path, monkeypatch):
    """Of six batches a second process of two takes 1, 3 and 5, and then waits for the first."""
    waited = []

    def sleep(seconds: float) -> None:
        waited.append([path.name for path in sorted(tmp_path.glob("*.safetensors"))])
        collected(BoundStore(tmp_path, SETTINGS), 6)  # all that is missing

    monkeypatch.setattr("time.sleep", sleep)
    found, computed = collected(BoundStore(tmp_path, SETTINGS, rank=1, count=2), 6)
    assert computed == [1, 3, 5]
    assert waited == [[f"00-00000{i}.safetensors" for i in (1, 3, 5)]]
    check(found)


def test_what_another_process_has_done_is_not_done_again(tmp_path):
    """Batch 2 appears while 0 is computed."""
    store, other = BoundStore(tmp_path, SETTINGS), BoundStore(tmp_path, SETTINGS)
    computed = []

    def compute(index: int) -> Costs:
        computed.append(index)
        if index == 0:
            other._save(0, 2, costs(2))
        return costs(index)

    check(list(store.collect(0, 4, compute)))
    assert computed == [0, 1, 3]
    assert store.stored_calls == 0  # it was not there from the start


def test_settings_are_read_again(tmp_path):
    assert stored_settings(tmp_path) == {}
    assert stored_settings(tmp_path / "nowhere") == {}
    BoundStore(tmp_path, SETTINGS)
    assert stored_settings(tmp_path) == {"format": 2, **SETTINGS}
    BoundStore(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"weights": "abc", "seed": 4}, r"with seed 3, not 4: give"),
        ({"weights": "abd", "seed": 4}, r"with weights 'abc', not 'abd'; seed 3, not 4: give"),
        ({"weights": "abc"}, r"with seed 3, not None: give"),
        (SETTINGS | {"images": 5}, r"with images None, not 5: give"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, other, named):
    BoundStore(tmp_path, SETTINGS)
    with pytest.raises(NelboError, match=named):
        BoundStore(tmp_path, other)


@pytest.mark.parametrize(
    ("version", "named"),
    [(None, "by an older version of nelbo, which recorded the weights but not the pixels"),
     (3, "by another version of nelbo, which recorded in another way the pixels")],
)  # fmt: skip
def test_other_versions_are_refused(tmp_path, version, named):
    settings = SETTINGS if version is None else {"format": version, **SETTINGS}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(NelboError, match=named):
        BoundStore(tmp_path, SETTINGS)


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-8],
            "empty": b"",
            "kind": content.replace(b"Costs", b"Cists"),
            "evidence": content.replace(b"exact", b"exect"),
            "number": content.replace(b'"dims":"10"', b'"dims":"1x"'),
            "tensor": content.replace(b'"calls"', b'"cells"'),
        }[how]
    )
    assert file.read_bytes() != content


@pytest.mark.parametrize("how", ["cut", "empty", "kind", "evidence", "number", "tensor"])
def test_a_damaged_batch_is_named(tmp_path, how):
    collected(BoundStore(tmp_path, SETTINGS))
    damage(tmp_path / "00-000001.safetensors", how)
    store = BoundStore(tmp_path, SETTINGS).collect(0, 4, costs)
    next(store)
    with pytest.raises(NelboError, match=r"00-000001\.safetensors is damaged .*: remove it"):
        next(store)


def test_a_batch_without_notes_is_named(tmp_path):
    BoundStore(tmp_path, SETTINGS)
    save_file(dict(costs(0).tensors()), tmp_path / "00-000000.safetensors")
    with pytest.raises(NelboError, match=r"is damaged \('kind'\)"):
        next(BoundStore(tmp_path, SETTINGS).collect(0, 1, costs))


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NelboError, match=r"cannot write to .*file"):
            BoundStore(place, SETTINGS)
