"""The whole command fits the time given, and says what it does with it."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import nelbo
from nelbo.base import console
from nelbo.cli import main
from nelbo.networks import UNet
from nelbo.report.training_facts import training_facts
from nelbo.training import allowance, rehearsal, watch
from nelbo.training.allowance import Allowance, allowed_seconds
from nelbo.training.config import TrainingConfig
from nelbo.training.kinds import run_end
from nelbo.training.kinds.final_samples import FinalSamples
from nelbo.training.kinds.kind import grid_of
from nelbo.training.outlook import advice, outlook_text, passes_text
from nelbo.training.pace import Outlook
from tests.commands.conftest import TINY
from tests.conftest import reports
from tests.faults.test_killed import assert_same
from tests.faults.test_mistakes import mistake

BRIEF = ["--evaluate-images", "2", "--evaluate-levels", "1", "--sample-images", "1"]
BRIEF += ["--sample-steps", "2"]
EXACT = ["--threads", "1", "--precision", "fp32"]


@pytest.fixture(autouse=True)
def usual_time(monkeypatch) -> None:
    """What users have; see `little_time_after_training`."""
    monkeypatch.setattr(allowance, "LEAST", 20.0)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many images each call of a UNet that is not learning has seen."""
    seen: list[int] = []
    forward = UNet.forward

    def counting(self, x_t, *rest, **named):
        if not torch.is_grad_enabled():
            seen.append(len(x_t))
        return forward(self, x_t, *rest, **named)

    monkeypatch.setattr(UNet, "forward", counting)
    return seen


def shown(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_what_follows_is_a_share_of_the_training():
    assert allowed_seconds(600.0) == pytest.approx(120.0)
    assert allowed_seconds(12.0) == 20.0
    # Two stages share the least as they share the time.
    assert allowed_seconds(3.0, 0.25) + allowed_seconds(9.0, 0.75) == 20.0
    now = [100.0]
    left = Allowance(20.0, clock=lambda: now[0])
    now[0] = 115.0
    assert (left.spent, left.left) == (15.0, 5.0)
    now[0] = 130.0
    assert left.left == 0.0


def test_without_time_the_end_of_a_run_is_short_and_says_how_much_it_has_seen(
    run_path, tmp_path, calls, capsys, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    (run / "report.html").unlink()
    monkeypatch.setattr(allowance, "LEAST", 0.0)
    monkeypatch.setattr(allowance, "SHARE", 0.0)
    main(["train", "--resume", "--out", str(run)])
    printed = capsys.readouterr().out
    assert sum(calls) < 1000
    evaluation = json.loads((run / "evaluation.json").read_text())
    for split, there in (("train", 1332), ("test", 299)):
        assert evaluation[split]["examples"] < 20
        assert evaluation[split]["images_of_split"] == there
        assert f"{split}: {evaluation[split]['examples']} of" in " ".join(printed.split())
        assert evaluation[split]["bits_per_dim"]["total"]["standard_error"] > 0
    assert "draws of 19 levels" in (run / "report.html").read_text()


def test_what_is_asked_for_by_number_is_done_whatever_the_time(
    run_path, tmp_path, calls, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    monkeypatch.setattr(allowance, "LEAST", 0.0)
    monkeypatch.setattr(allowance, "SHARE", 0.0)
    asked = ["--evaluate-levels", "all", "--evaluate-images", "24", "--sample-images", "10"]
    main(["train", "--resume", "--out", str(run), *asked, "--sample-steps", "11"])
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert [evaluation[split]["examples"] for split in ("train", "test")] == [24, 24]
    assert evaluation["test"]["levels_per_image"] == 19
    assert sum(calls) > 24 * 20 + 24 * 20 + 10 * 11
    main(["report", str(run), "--levels", "3", "--images", "21"])
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["test"]["examples"] == 21
    assert evaluation["test"]["levels_per_image"] == 3


def test_a_bound_that_is_asked_for_leaves_samples_their_time(run_path, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    now, refine, extremes = [0.0], run_end.refine, run_end.find_extremes
    monkeypatch.setattr(allowance, "LEAST", 100.0)
    monkeypatch.setattr(run_end, "Allowance", partial(Allowance, clock=lambda: now[0]))

    def slow(evaluations, seconds):
        refine(evaluations, seconds)
        now[0] += 110.0 if seconds else 0.0

    def at_once(*given, **options):
        return extremes(*given, **options | {"seconds": 0.0})

    monkeypatch.setattr(run_end, "refine", slow)
    monkeypatch.setattr(run_end, "find_extremes", at_once)
    asked = ["--evaluate-levels", "3", "--evaluate-images", "8"]
    main(["train", "--resume", "--out", str(run), *asked])
    samples = json.loads((run / "evaluation.json").read_text())["samples"]
    assert samples["spaces"][0]["samples"]["images"] > 4  # the fewest


def test_the_last_report_has_the_time_that_the_first_took(run_path, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    now, given = [0.0], []
    monkeypatch.setattr(run_end, "SOON", 0.0)
    monkeypatch.setattr(allowance, "LEAST", 100.0)
    monkeypatch.setattr(run_end, "Allowance", partial(Allowance, clock=lambda: now[0]))

    def slow(page, path):
        now[0] += 30.0

    def without_work(evaluations, seconds):
        given.append(seconds)
        refine(evaluations, 0.0)

    refine, extremes = run_end.refine, run_end.find_extremes
    monkeypatch.setattr(run_end, "write_html", slow)
    monkeypatch.setattr(run_end, "refine", without_work)
    monkeypatch.setattr(
        run_end, "find_extremes", lambda *a, **options: extremes(*a, **options | {"seconds": 0.0})
    )
    main(["train", "--resume", "--out", str(run), "--sample-images", "1", "--sample-steps", "2"])
    # Of 100 s the first report took 30, the last will take 30; bounds have .45 less .15 of files.
    assert given == [0.0, pytest.approx(7.5), pytest.approx(0.3 * 40)]


def test_a_first_report_is_there_before_the_last(run_path, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_path, run)
    (run / "report.html").unlink()
    monkeypatch.setattr(run_end, "SOON", 0.0)
    monkeypatch.setattr(allowance, "LEAST", 2.0)
    found = {}

    def interrupted(*_, **__):
        found["report"] = (run / "report.html").read_text()
        found["evaluation"] = json.loads((run / "evaluation.json").read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(run_end, "find_extremes", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", "--out", str(run)])
    assert stop.value.code == 130
    message = shown(capsys)
    assert f"A first report is in {run / 'report.html'}" in message
    assert f"the trained model is in {run}, and nelbo report {run} makes its report" in message
    assert "Least surprising" in found["report"]
    assert found["evaluation"]["test"]["examples"] >= 2


@pytest.mark.parametrize(
    ("asked", "calls", "expected"),
    [
        ((None, None), 1e9, (64, 25)),
        ((None, None), 800, (32, 25)),
        ((None, None), 400, (16, 25)),
        ((None, None), 100, (10, 10)),
        ((None, None), 0, (4, 10)),
        ((30, None), 0, (30, 10)),
        ((None, 40), 0, (4, 40)),
        ((3, 200), 0, (3, 100)),
    ],
)
def test_fewer_samples_then_fewer_steps(asked, calls, expected):
    assert FinalSamples(*asked).plan(100, calls) == expected


@pytest.mark.parametrize(
    ("calls", "levels", "expected"),
    [
        *((None, 50, (16, 25)), (800, 50, (16, 25)), (300, 50, (16, 18)), (150, 50, (9, 16))),
        *((60, 50, (4, 15)), (0, 50, (4, 12)), (0, 5, (4, 5)), (90, 5, (16, 5))),
    ],
)
def test_the_grid_that_there_is_time_for(calls, levels, expected, monkeypatch):
    monkeypatch.setattr("nelbo.training.kinds.kind.GRIDS", (16, 9, 4))
    assert grid_of(calls, levels) == expected
    if calls is not None:
        assert grid_of(2 * calls, levels, calls_of_a_step=2) == expected


def test_the_line_before_training():
    config = TrainingConfig(time_budget="4m")
    line = outlook_text(Outlook.of(config, 5.9), config, 1006)
    assert line == (
        "About 41 steps in 4 min at 5.9 s a step, 2.6 passes over the 1,006 images; evaluation, "
        "samples and report then take at most 48 s"
    )
    config = TrainingConfig(steps=1, warmup_steps=50)
    assert " passes over the one image; " in outlook_text(Outlook.of(config, 5.9), config, 1)
    line = outlook_text(Outlook.of(config, 0.02), config, None)
    assert line.startswith("About 1 step in 0 s at 20 ms a step; evaluation")


@pytest.mark.parametrize(
    ("options", "each", "found"),
    [
        (
            {"time_budget": "4m", "warmup_steps": 50},
            6.0,
            r"40 steps do not leave the warm-up of 50 \(--warmup-steps\): make --size, --widths or "
            r"--batch-size smaller, or --time-budget longer \(50 min for 500 steps\)",
        ),
        ({"time_budget": "6s"}, 6.0, r"note: 1 step is too few to learn much: make --size"),
        ({"time_budget": "4m"}, 6.0, r"40 steps are too few to learn much: make --size"),
        ({"steps": 30}, 6.0, r"30 steps are too few to learn much: give more --steps, 500"),
    ],
)
def test_what_to_make_smaller(options, each, found):
    config = TrainingConfig(**options)
    assert re.search(found, advice(Outlook.of(config, each), config))
    assert "--size" not in advice(Outlook.of(config, each), config, sized=False)


def test_a_file_gets_lines_and_no_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "_MINUTE", 0.0)
    out = str(tmp_path / "run")
    main(["train", "digits", "--out", out, "--steps", "3", *TINY, *BRIEF, *EXACT])
    lines = capsys.readouterr().err.splitlines()
    assert not any(character in line for line in lines for character in "━╸\r\x1b")
    about = [line for line in lines if line.startswith("step ")]
    assert len(about) == 3
    assert re.fullmatch(
        r"step 2: loss [\d.]+ · [\d.]+ bits/dim, [\d.]+ (steps/s|s/step), [\d.]+ s left", about[1]
    )
    assert any(line.startswith("Sampling 1 image: 1 of ") for line in lines)
    (before,) = [line for line in lines if line.startswith("About 3 steps in ")]
    assert "passes over the 1,332 images; evaluation, samples and report" in before
    assert any("3 steps are too few to learn much: give more --steps" in line for line in lines)
    (after,) = [line for line in lines if line.startswith("Trained 3 steps in ")]
    assert ", 0.1 passes over the data: loss " in after


@pytest.mark.usefixtures("ends_with_the_model")
def test_without_a_minute_having_passed_there_is_no_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    main(["train", "digits", "--out", out, "--steps", "2", *TINY, *BRIEF, *EXACT])
    assert "\nstep " not in capsys.readouterr().err


def looking(monkeypatch) -> None:
    """After every step."""
    for name in ("_EARLIEST", "_FIRST_SECONDS", "_FIRST_SHARE", "_EVERY", "_GROWTH", "_TIMES"):
        monkeypatch.setattr(watch, name, 0.0)


def test_samples_and_readings_while_it_trains_and_training_is_the_same(
    tmp_path, capsys, monkeypatch
):
    options = ["train", "digits", "--steps", "5", *TINY, *BRIEF, *EXACT]
    with reports(False):
        main([*options, "--out", str(tmp_path / "plain")])
    assert not list((tmp_path / "plain" / "samples").glob("step-*.png"))
    capsys.readouterr()
    looking(monkeypatch)
    main([*options, "--out", str(tmp_path / "watched")])
    assert_same(tmp_path / "plain", tmp_path / "watched")
    assert re.search(r"the validation bound (still falls|no longer falls|rises)", shown(capsys))
    grids = sorted(p.name for p in (tmp_path / "watched" / "samples").glob("step-*.png"))
    assert grids == [f"step-{step:06d}.png" for step in (1, 2, 3, 4)]
    rows = [
        json.loads(line)
        for line in (tmp_path / "watched" / "readings.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    # Each is compared with the last one of three quarters of the run so far.
    assert [row.get("since") for row in rows] == [None, 1, 2, 3, 3]
    for row in rows[1:]:
        before = rows[row["since"] - 1]
        assert row["change"] == pytest.approx(row["bits_per_dim"] - before["bits_per_dim"])
        assert row["change_error"] > 0
    page = (tmp_path / "watched" / "report.html").read_text()
    assert re.search(r"<dt>validation</dt>\s*<dd>(still falls|no longer falls|rises)", page)
    assert "validation" in page

    # Steps that are taken again are read again.
    checkpoints = sorted((tmp_path / "watched" / "training").glob("step-*"))
    shutil.rmtree(checkpoints[-1])
    with reports(False):
        main(["train", "--resume", "--out", str(tmp_path / "watched")])
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "watched" / "readings.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))
    assert_same(tmp_path / "plain", tmp_path / "watched")


def test_passes_are_said_as_they_are():
    assert passes_text(1800, 64, 1006) == "115 passes"
    assert passes_text(100, 64, 1000) == "6.4 passes"
    assert passes_text(3, 10, 60) == "0.5 passes"
    assert passes_text(100, 64, None) == ""


@pytest.mark.usefixtures("ends_with_the_model")
def test_settings_of_earlier_runs_go_on_to_the_last_bit(tmp_path):
    """Their files have no `warmup`, and a number of steps, levels and images."""
    options = ["train", "digits", *TINY, *EXACT, "--save-every", "0.001s", *BRIEF]
    whole, out = tmp_path / "whole", tmp_path / "out"
    main([*options, "--out", str(whole), "--steps", "8", "--warmup-steps", "50"])
    shutil.copytree(whole, out)
    kept = yaml.safe_load((out / "config.yaml").read_text())
    del kept["training"]["warmup"]
    assert kept["training"]["warmup_steps"] == 50
    (out / "config.yaml").write_text(yaml.safe_dump(kept))
    for step in sorted((out / "training").glob("step-*"))[-1:]:
        shutil.rmtree(step)
    main(["train", "--resume", "--out", str(out)])
    assert_same(whole, out)


def test_auto_precision_stays_over_resume_and_is_stated(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(rehearsal, "has_bf16", lambda device: True)
    monkeypatch.setattr(rehearsal, "bf16_pays", lambda steps, agreed: True)
    options = [*TINY, *BRIEF, "--precision", "auto"]
    with reports(False):
        main(["train", "digits", "--out", str(out), "--steps", "2", *options])
    assert "1 thread, bf16" in shown(capsys)
    monkeypatch.setattr(rehearsal, "bf16_pays", lambda steps, agreed: False)
    main(["train", "--resume", "--out", str(out), "--steps", "3"])
    assert "1 thread, bf16" in shown(capsys)
    notes = json.loads((out / "nelbo.json").read_text())
    assert (notes["trained"]["precision"], notes["trained"]["threads"]) == ("bf16", 1)
    facts = training_facts(notes, [])
    assert facts["computed on"] == f"{notes['hardware']}, 1 thread, bf16"
    assert facts["computed on"] in (out / "report.html").read_text()
    # On a run that is finished nothing is chosen anew either.
    with reports(False):
        main(["train", "--resume", "--out", str(out)])
    assert json.loads((out / "nelbo.json").read_text())["trained"]["precision"] == "bf16"


def test_a_model_without_the_place_of_its_folder_does_not_call_it_gone(
    run_path, tmp_path, capsys, monkeypatch
):
    """A copy that is to be shared records the name of the folder alone."""
    out: Path = tmp_path / "copy"
    nelbo.save(nelbo.load(run_path), out, notes={"source": "icons"})
    message = mistake(capsys, "evaluate", out)
    assert "a folder called icons and does not record where it is: give --data" in message
    assert "any more" not in message
