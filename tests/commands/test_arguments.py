"""What is misspelt is named, with what was meant; results are printed wherever they go."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import unknown
from nelbo.cli import commands, main, options_class
from nelbo.commands.arguments import MEANT, arranged, check_arguments, options_of, parse
from nelbo.commands.common import answer, compute_on
from nelbo.commands.groups import ConditionOptions
from nelbo.commands.starting_point import parse_train, train_options
from tests.faults.test_mistakes import mistake

OUT = ["--out", "nowhere/run"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "digits", *OUT, "--lr", "3"], "--lr (did you mean --learning-rate?)"),
        (["train", "digits", *OUT, "--lr=3"], "no option --lr (did you mean --learning-rate?)"),
        (
            ["train", "digits", *OUT, "--epochs", "3"],
            "--epochs (did you mean --steps or --time-budget?)",
        ),
        (["train", "digits", *OUT, "--leraning-rate", "3"], "did you mean --learning-rate?"),
        (["train", "digits", *OUT, "--leraning_rate", "3"], "did you mean --learning-rate?"),
        (["train", "digits", *OUT, "--budget", "3m"], "did you mean --time-budget?"),
        (["train", "--data", "digits", *OUT], "DATA is given without a name"),
        (["train", "digits", "--output", "nowhere"], "did you mean --out?"),
        (["train", "digits", *OUT, "--model", "laten"], "'laten' (did you mean latent?)"),
        (["train", "digits", *OUT, "--schedule", "cosin"], "'cosin' (did you mean cosine?)"),
        (["train", "digits", *OUT, "--objective", "min-snr"], "(did you mean min_snr?)"),
        (["train", "digts", *OUT], "unknown data 'digts' (did you mean digits?)"),
        (["smaple", "x"], "unknown command 'smaple' (did you mean sample?)"),
        (["Train", "digits"], "did you mean train?"),
        (["sample", "x", "--num-samples", "3"], "--num-samples (did you mean -n?)"),
        (["sample", "x", "--guidance-scale", "3"], "did you mean --guidance?"),
        (["sample", "x", "--negative-prompt", "a"], "did you mean --negative?"),
        (["sample", "x", "--animate", "xt"], "'xt' (did you mean x_t?): expected one of x_t, x_0"),
        (["evaluate", "x", "--levels", "al"], "(did you mean all?): expected one of all, optimal"),
        (["evaluate", "x", "--precision", "fp23"], "(did you mean fp32?): expected one of fp32"),
        (["evaluate", "x", "--zzz"], "no option --zzz; nelbo evaluate --help lists them"),
        (["export", "x", "--checkpoint", "bets"], "'bets' (did you mean best?)"),
    ],
)
def test_what_was_meant(arguments, hint, capsys):
    assert hint in mistake(capsys, *arguments)


@pytest.mark.parametrize("name", ["dpmsolver", "DPM-Solver", "dpm_slover", "dpm_solver2"])
def test_names_of_samplers(name, run_path, tmp_path, capsys):
    out = tmp_path / "x.png"
    message = mistake(capsys, "sample", run_path, "--out", out, "--sampler", name)
    assert "did you mean dpm_solver?" in message
    assert "ddpm, ddim" in message


@pytest.mark.parametrize("command", commands())
def test_every_option_of_every_command_is_known(command):
    """What --help lists passes, with a dash or an underscore."""
    options = train_options() if command == "train" else options_of(options_class(command))
    for name, option in options.items():
        if option.positional:
            continue
        typed = f"--{name}" if len(name) > 1 else f"-{name}"
        check_arguments(command, options, ["x", typed])
        underscored = typed.replace("-", "_").replace("__", "--")
        check_arguments(command, options, ["x", underscored if len(name) > 1 else typed])
        if option.hint is bool:
            check_arguments(command, options, ["x", f"--no-{name}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare --runs a b", "DATA is missing: nelbo compare DATA ...; nelbo compare --help"),
        ("compare digits --runs a", "--runs takes 2 values, got 1"),
        ("sample", "RUN is missing"),
        ("sample -n16", "RUN is missing"),
        ("decompress --out x", "ARCHIVE is missing"),
        ("sample x --prompt red apple", "by 'apple': nelbo sample takes RUN without a name; put"),
        ("evaluate x --images few", "--images must be a whole number, got 'few'"),
        ("evaluate x --images 1e3", "--images must be a whole number, got '1e3'"),
        ("evaluate x --error small", "--error must be a number, got 'small'"),
        ("sample x --control-scale strong", "--control-scale must be a number, got 'strong'"),
        ("sample x -nmany", "-n must be a whole number, got 'many'"),
        ("sample x --guidance-interval 0 half", "--guidance-interval must be a number, got 'half'"),
    ],
)
def test_arguments_that_are_missing_or_of_another_kind(arguments, message, capsys):
    assert message in mistake(capsys, *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("compare --runs a b digits", {"data": "digits", "runs": ("a", "b")}),
        ("compare --runs None digits", {"data": "digits", "runs": None}),
        ("sample -n16 emoji", {"run_path": "emoji", "n": 16}),
        ("sample --prompt apple emoji", {"run_path": "emoji"}),
        ("sample --control-scale 0.5 1 emoji", {"run_path": "emoji"}),
        ("studio a b", {"runs": ("a", "b")}),
        # Nor must it be last after an option of any number of values.
        ("sample --control a.png b.png emoji -n 2", {"run_path": "emoji", "n": 2}),
        ("sample --label 3 emoji --control-scale 1", {"run_path": "emoji"}),
        ("sample --label=3 emoji -n 2", {"run_path": "emoji", "n": 2}),
        ("sample --control-scale 1 emoji --label 3", {"run_path": "emoji"}),
        ("compare --families ppca vae digits --budget 1s", {"families": ("ppca", "vae")}),
        ("compress --out x emoji a b", {"run_path": "emoji", "files": (Path("a"), Path("b"))}),
        ("sample emoji --label 3 4 -n 2", {"run_path": "emoji"}),
        ("sample --json -- emoji", {"run_path": "emoji"}),
    ],
)
def test_what_has_no_name_may_come_last(arguments, expected):
    command, *typed = arguments.split()
    kind = options_class(command)
    typed = arranged(typed, options_of(kind))
    check_arguments(command, options_of(kind), typed)
    found = parse(command, kind, typed)
    assert expected.items() <= vars(found).items()


@pytest.mark.parametrize("last", ["--steps 3", ""])
def test_what_need_not_be_given_may_follow_numbers(last):
    typed = f"--widths 8 16 digits {last}".split()
    found = parse_train(typed)
    assert (found.data, found.model.widths) == ("digits", (8, 16))
    assert arranged(["--widths", "8", "16"], train_options()) == ["--widths", "8", "16"]


def test_help_lists_the_options_that_are_known(capsys):
    for command in ("sample", "export", "train"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        words = set(capsys.readouterr().out.replace(",", " ").split())
        options = options_of(options_class(command))
        assert {f"--{n}" for n, o in options.items() if not o.positional and len(n) > 1} <= words


def test_values_are_not_taken_for_options():
    options = options_of(options_class("sample"))
    for typed in (
        ["run", "-n16"],
        ["run", "-n", "-3"],
        ["run", "--prompt", "-- a dash"],
        ["run", "--prompt=--a"],
        ["run", "--guidance", "-.5"],
        ["--", "--not-an-option"],
    ):
        check_arguments("sample", options, typed)


def test_synonyms_lead_to_options():
    """Each leads to an option of some command, and none is one."""
    own = (options_of(options_class(name)) for name in commands())
    known = set().union(train_options(), *own)
    for names in MEANT.values():
        assert known >= set(names)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "infinity"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--weight-decay"),
        ("train", "--learning-rate"),
        ("train", "--dropout"),
        ("train", "--guidance"),
        ("sample", "--guidance"),
        ("sample", "--eta"),
        ("edit", "--strength"),
        ("evaluate", "--error"),
        ("likelihood", "--tolerance"),
        ("classify", "--margin"),
        ("export", "--sigma-rel"),
    ],
)
def test_numbers_are_finite(command, option, value, capsys):
    options = train_options() if command == "train" else options_of(options_class(command))
    for typed in ([f"{option}={value}"], [option, value]):
        if typed[-1] != "-inf":  # which is none to argparse either
            with pytest.raises(NelboError, match=f"{option} must be a finite number, got"):
                check_arguments(command, options, typed)


def test_both_of_a_pair_are_finite():
    options = options_of(options_class("sample"))
    with pytest.raises(NelboError, match="--guidance-interval must be a finite number, got nan"):
        check_arguments("sample", options, ["--guidance-interval", "0", "nan"])


def test_a_pair_leaves_the_run_that_is_named_after_it():
    asked = parse("sample", options_class("sample"), ["--guidance-interval", "0", "1", "RUN"])
    assert (asked.condition.guidance_interval, asked.run_path) == ((0.0, 1.0), "RUN")


@pytest.mark.parametrize("command", ["evaluate", "rank", "sample", "classify", "report"])
def test_commands_compute_with_the_threads_asked_for(command):
    """Which is set before a run is opened, as it is here with `compute_on`."""
    given = ["RUN", "--threads", "3", *(["--out", "x"] if command == "rank" else [])]
    asked = parse(command, options_class(command), given)
    before = torch.get_num_threads()
    try:
        compute_on(asked.computing)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_list_that_is_given_twice_loses_nothing():
    with pytest.raises(NelboError, match="--widths is given twice"):
        check_arguments("train", train_options(), ["--widths", "8", "--widths", "16"])


@pytest.mark.parametrize(
    "typed",
    [
        ["--label", "3", "--label", "cat", "--label", "1"],
        ["--label", "3", "cat", "1"],
        ["--label", "3", "cat", "--label", "1"],
    ],
)
def test_labels_add_up(typed):
    import tyro

    assert tyro.cli(ConditionOptions, args=typed).labels() == ("3", "cat", "1")


def test_unknown_names():
    known = ("dpm_solver", "ddim")
    assert unknown("x", "DDIM", known) == (
        "unknown x 'DDIM' (did you mean ddim?): expected one of dpm_solver, ddim"
    )
    assert unknown("x", "zebra", known) == "unknown x 'zebra': expected one of dpm_solver, ddim"


def assert_printed(out: str, err: str, encoding: str) -> None:
    """The lines of `print_in`, as far as the encoding has their characters."""
    assert "Traceback" not in err
    assert "1,797" in out or "1797" in out
    assert "bits/dim" in out
    sign = "±".encode(encoding, "ignore").decode(encoding) or "+-"
    assert f"1.5 {sign} 0.1" in out
    assert "error:" in err
    printed = out[out.index('{\n  "name"') :]
    assert json.loads(printed) == {"name": "猫 ± é"}


def print_all(missing: str) -> None:
    """Tables, notes and errors, to standard output and error."""
    main(["data", "digits"])
    answer(False, {}, "1.5 ± 0.1 bits/dim × 2 → 猫")
    notice("σ ≤ 3 … 猫")
    answer(True, {"name": "猫 ± é"})
    main(["sample", missing])


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "ascii"])
def test_results_are_printed_in_any_encoding(encoding, tmp_path, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as stopped:
        print_all(str(tmp_path / "é × 猫" / "no.png"))
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    monkeypatch.undo()
    assert stopped.value.code == 2
    assert_printed(out, err, encoding)


def test_pictures_of_an_earlier_call_do_not_stay_beside_the_new_ones(run_path, tmp_path, capsys):
    def sample(n: int) -> list[str]:
        out = ["--out", str(tmp_path / "grid.png"), "--files", str(tmp_path / "files")]
        return ["sample", str(run_path), *out, "-n", str(n), "--steps", "2"]

    main(sample(3))
    (tmp_path / "files" / "mine.png").write_bytes(b"of somebody else")
    message = mistake(capsys, *sample(2))
    assert (
        "holds 1 of the pictures of an earlier call that these 2 would not replace (00002.png)"
        in (message)
    )
    main(sample(4))
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "mine.png"]
