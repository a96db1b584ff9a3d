"""nelbo sample: images that depend on (seed, i) alone, single files, animations, prompts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo import Condition
from nelbo.chain.distributions import generator_for
from nelbo.cli import main
from nelbo.commands.conditions import condition_of, guiding
from nelbo.commands.groups import ConditionOptions, SamplerOptions
from nelbo.commands.sampling import build_sampler, guidance_of
from nelbo.formats import Pipeline
from nelbo.report.captions import prompt_grid
from nelbo.runs.picture_model import PictureModel
from nelbo.samplers import DDIM, DDPM, SAMPLERS, DPMSolver, Euler, Heun, default_sampler
from tests.diffusion.test_model import make
from tests.formats import tiny


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def read_files(directory) -> np.ndarray:
    return np.stack([pixels(path) for path in sorted(directory.iterdir())])


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    path = tmp_path_factory.mktemp("stable")
    tiny.stable_diffusion(path)
    return path / "pipeline"


def test_image_i_of_a_seed_does_not_depend_on_the_batch(run_path, tmp_path):
    drawn = {}
    for n, batch_size in ((7, 64), (7, 1), (7, 3), (4, 4)):
        files = tmp_path / f"{n}-{batch_size}"
        common = ["--steps", "6", "--seed", "5", "--files", str(files)]
        out = ["--out", str(tmp_path / "x.png")]
        main(
            ["sample", str(run_path), "-n", str(n), "--batch-size", str(batch_size), *common, *out]
        )
        drawn[n, batch_size] = read_files(files)
    whole = drawn[7, 64]
    assert whole.shape == (7, 8, 8)
    for images in drawn.values():
        # a level is 255 / 16; rounding in float may rarely fall to the next one
        assert np.abs(images - whole[: len(images)]).max() <= 16
        assert (images != whole[: len(images)]).mean() < 0.01
    assert not np.array_equal(whole[0], whole[1])


def test_files_are_what_the_library_draws(run_path, tmp_path):
    main(
        [
            *["sample", str(run_path), "-n", "3", "--sampler", "ddim", "--steps", "4"],
            *["--eta", "0.5", "--seed", "9", "--files", str(tmp_path / "f")],
            *["--out", str(tmp_path / "x.png")],
        ]
    )
    model = nelbo.load(run_path)
    x = model.sample(3, DDIM(4, eta=0.5), generator=[generator_for(9, i) for i in range(3)])
    expected = (model.data.to_levels(x)[:, 0].double() * 255 / 16).round().numpy()
    assert np.abs(read_files(tmp_path / "f") - expected).max() <= 16
    assert (read_files(tmp_path / "f") != expected).mean() < 0.01


@pytest.mark.parametrize(("suffix", "shown"), [(".gif", "x_t"), (".webp", "x_0")])
def test_animation_ends_in_the_grid_and_rests_there(run_path, tmp_path, suffix, shown):
    out, animation = tmp_path / "x.png", tmp_path / f"x{suffix}"
    main(
        [
            *["sample", str(run_path), "-n", "5", "--batch-size", "2", "--out", str(out)],
            *["--animation", str(animation), "--animate", shown, "--sampler", "ddpm"],
        ]
    )
    film = Image.open(animation)
    assert 5 < film.n_frames <= 20
    assert film.info["loop"] == 0
    first = np.asarray(film.convert("L")).astype(int)
    film.seek(film.n_frames - 1)
    last = np.asarray(film.convert("L")).astype(int)
    assert film.info["duration"] > 1000
    assert np.abs(last - pixels(out)).max() <= 2
    assert np.abs(first - last).max() > 50


def test_results_go_to_standard_output_and_progress_to_standard_error(
    run_path, tmp_path, capsys, monkeypatch
):
    # A file gets a line of progress a minute: every step takes one here.
    monkeypatch.setattr("nelbo.base.console._MINUTE", 0.0)
    arguments = [
        "sample",
        str(run_path),
        "-n",
        "2",
        "--steps",
        "3",
        "--out",
        str(tmp_path / "x.png"),
    ]
    main(arguments)
    shown = capsys.readouterr()
    assert shown.out.startswith("2 images in ")
    assert "images/s" in shown.out
    assert "Sampling 2 images: 1 of " in shown.err
    assert "Sampling 2 images" not in shown.out
    main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_prompts_in_turn(tmp_path, stable, capsys):
    files = tmp_path / "f"
    common = ["sample", str(stable), "--steps", "2", "--guidance", "3", "--negative", "dog"]
    out = ["--out", str(tmp_path / "x.png"), "--seed", "4", "--files", str(files)]
    main([*common, "--prompt", "cat", "--prompt", "red", "-n", "3", *out])
    model = nelbo.load(stable)
    generators = [generator_for(4, i) for i in range(3)]
    sampler = nelbo.load_sampler(stable, 2)
    x = model.sample(
        3,
        sampler,
        prompt=["cat", "red", "cat"],
        negative_prompt="dog",
        guidance=3.0,
        generator=generators,
    )
    expected = ((x + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(read_files(files) - expected).max() <= 1
    # a file of prompts says the same, and how many there are to be
    (tmp_path / "prompts.txt").write_text("cat\n\nred\n")
    capsys.readouterr()
    main([*common, "--prompt-file", str(tmp_path / "prompts.txt"), *out[:4], "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_a_run_is_guided_as_its_own_samples_are(tmp_path, stable):
    run = tmp_path / "run"
    nelbo.save(
        nelbo.load(stable),
        run,
        sampler=nelbo.load_sampler(stable),
        notes={"settings": {"model": {"guidance": 3.0}}},
    )
    drawn = {}
    for name, where, more in (
        ("usual", run, ["--negative", "dog"]),
        ("asked", stable, ["--negative", "dog", "--guidance", "3"]),
        ("unguided", run, ["--guidance", "1"]),
        ("elsewhere", stable, []),
    ):
        files = tmp_path / name
        asked = ["sample", str(where), "--prompt", "cat", "--steps", "2", "-n", "1", *more]
        main([*asked, "--out", str(tmp_path / "x.png"), "--files", str(files)])
        drawn[name] = read_files(files)
    assert np.array_equal(drawn["usual"], drawn["asked"])
    assert np.array_equal(drawn["unguided"], drawn["elsewhere"])
    assert not np.array_equal(drawn["usual"], drawn["unguided"])


def test_prompts_of_a_file_that_begins_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffred cat\r\n\r\n  dog \r\na\u2028b\n".encode())
    assert ConditionOptions(prompt_file=file).prompts() == ("red cat", "dog", "a\u2028b")


def test_several_prompts_stand_beneath_their_rows(tmp_path, stable):
    out, files = tmp_path / "x.png", tmp_path / "f"
    asked = ["sample", str(stable), "--steps", "2", "--seed", "4", "--out", str(out)]
    main([*asked, "--prompt", "cat", "--prompt", "red dog", "-n", "4", "--files", str(files)])
    images = torch.from_numpy(read_files(files)).permute(0, 3, 1, 2).byte()
    assert np.array_equal(pixels(out), np.asarray(prompt_grid(images, ["cat", "red dog"])))
    main([*asked, "--prompt", "cat", "--prompt", "red dog", "--scale", "2", "-n", "4"])
    small = prompt_grid(images, ["cat", "red dog"], scale=2)
    assert np.array_equal(pixels(out), np.asarray(small))


def test_of_one_prompt_there_are_four_pictures_to_look_at(tmp_path, stable):
    """16 pixels become blocks of 8 each; --scale decides otherwise, and files stay as they are."""
    out, files = tmp_path / "x.png", tmp_path / "f"
    asked = ["sample", str(stable), "--prompt", "cat", "--steps", "2", "--out", str(out)]
    main([*asked, "--files", str(files)])
    images = read_files(files)
    assert images.shape == (4, 16, 16, 3)
    page = pixels(out)
    assert page.shape == (2 * (128 + 16) + 16, 2 * (128 + 16) + 16, 3)
    for i, (top, left) in enumerate([(16, 16), (16, 160), (160, 16), (160, 160)]):
        blocks = images[i].repeat(8, axis=0).repeat(8, axis=1)
        assert np.array_equal(page[top : top + 128, left : left + 128], blocks)
    main([*asked, "--scale", "1"])
    page = pixels(out)
    assert page.shape == (2 * (16 + 2) + 2, 2 * (16 + 2) + 2, 3)
    assert np.array_equal(page[2:18, 2:18], images[0])


def test_from_one_prompt_to_another(tmp_path, stable):
    """Rows of one noise each, whose ends are the pictures of the two prompts from that noise."""
    files = tmp_path / "f"
    sampling = ["--steps", "2", "--sampler", "ddpm", "--seed", "4", "--guidance", "3"]
    asked = ["sample", str(stable), "--prompt", "cat", "--prompt", "red dog", *sampling]
    out = ["--negative", "dog", "--out", str(tmp_path / "x.png"), "--files", str(files)]
    main([*asked, "--interpolate", "3", "-n", "2", "--batch-size", "4", *out])
    drawn = read_files(files)
    assert len(drawn) == 6
    model = nelbo.load(stable)
    told = model.condition_on(["cat", "red dog"])
    middle = Condition(text=told.text.mean(0, keepdim=True))
    for row in range(2):
        for frame, condition in enumerate((told[:1], middle, told[1:])):
            x = model.sample(
                1,
                DDPM(2),
                condition=condition,
                negative_prompt="dog",
                guidance=3.0,
                generator=[generator_for(4, row)],
            )
            expected = ((x + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()[0]
            assert np.abs(drawn[3 * row + frame] - expected).max() <= 1
    assert not np.array_equal(drawn[0], drawn[3])
    assert not np.array_equal(drawn[0], drawn[2])


def test_an_empty_prompt_is_the_unconditional_model(tmp_path, stable, capsys):
    drawn = []
    for prompt in ([], ["--prompt", ""], ["--prompt", " "]):
        files = tmp_path / str(len(drawn))
        out = ["--out", str(tmp_path / "x.png"), "--files", str(files)]
        main(["sample", str(stable), *prompt, "-n", "2", "--steps", "2", *out])
        said = "no prompt: the unconditional model" in capsys.readouterr().err
        assert said == bool(prompt)
        drawn.append(read_files(files))
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])


def test_labels_of_a_latent_model(tmp_path):
    """As of a pixel model: those asked for in turn, else all."""
    network = tiny.pixel_unet(in_channels=4, out_channels=4, num_class_embeds=3)
    network.save_pretrained(tmp_path / "unet")
    prior = nelbo.Diffusion(
        nelbo.UNet.from_pretrained(tmp_path / "unet"),
        nelbo.NoiseSchedule.scaled_linear(),
        data=nelbo.Continuous(),
        shape=(4, 8, 8),
    )
    tiny.autoencoder().save_pretrained(tmp_path / "vae")
    autoencoder = nelbo.AutoencoderKL.from_pretrained(tmp_path / "vae")
    model = nelbo.LatentDiffusion(autoencoder, prior, scale=0.7).eval()
    path = tmp_path / "model"
    nelbo.save(model, path)
    sampler = nelbo.load_sampler(path, 2)
    for asked, labels in (([], [0, 1, 2, 0]), (["--label", "2", "0"], [2, 0, 2, 0])):
        files = tmp_path / str(len(asked))
        out = ["--out", str(tmp_path / "x.png"), "--files", str(files)]
        main(["sample", str(path), *asked, "-n", "4", "--steps", "2", "--guidance", "2", *out])
        x = model.sample(
            4,
            sampler,
            condition=Condition(label=torch.tensor(labels)),
            guidance=2.0,
            generator=[generator_for(0, i) for i in range(4)],
        )
        expected = ((x + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
        assert np.abs(read_files(files) - expected).max() <= 1


def test_latents_are_decoded_as_many_at_a_time_as_they_are_drawn(tmp_path, stable, monkeypatch):
    at_a_time = []
    decode = nelbo.LatentDiffusion.decode

    def watched(model, z):
        at_a_time.append(len(z))
        return decode(model, z)

    monkeypatch.setattr(nelbo.LatentDiffusion, "decode", watched)
    options = ["--prompt", "cat", "-n", "5", "--batch-size", "2", "--steps", "2"]
    film = ["--animation", str(tmp_path / "x.gif")]
    main(["sample", str(stable), *options, *film, "--out", str(tmp_path / "x.png")])
    assert at_a_time[:3] == [2, 2, 1]
    assert max(at_a_time) == 2


def test_pictures_of_latents_have_the_levels_of_their_pixels(tmp_path):
    tiny.unconditional(tmp_path / "model")
    model = nelbo.load(tmp_path / "model")
    model.data = nelbo.Pixels(3)
    nelbo.save(model, tmp_path / "model")
    pictures = PictureModel.load(Pipeline.open(tmp_path / "model"), torch.device("cpu"))
    assert pictures.levels == 3
    nearest = pictures.model.data.nearest(torch.tensor([0, 120, 200, 255]))
    assert nearest.tolist() == [0, 1, 2, 2]
    out = ["--out", str(tmp_path / "x.png"), "--files", str(tmp_path / "f")]
    main(["sample", str(tmp_path / "model"), "-n", "2", "--steps", "2", *out])
    assert set(np.unique(read_files(tmp_path / "f"))) <= {0, 128, 255}
    model.data = nelbo.Continuous()
    nelbo.save(model, tmp_path / "model")
    with pytest.raises(nelbo.NelboError, match="models continuous data, not pixels"):
        PictureModel.load(Pipeline.open(tmp_path / "model"), torch.device("cpu"))


def test_the_scheduler_of_the_pipeline_decides_what_is_not_asked_for(stable, run_path):
    run, diffusers = Pipeline.open(run_path), Pipeline.open(stable)
    assert build_sampler(SamplerOptions(), run) == default_sampler(run.schedule)
    assert build_sampler(SamplerOptions(steps=7), run) == default_sampler(run.schedule, 7)
    # 50 steps, or as many as the chain has
    assert build_sampler(SamplerOptions(sampler="ddim"), run).steps == 20
    assert build_sampler(SamplerOptions(sampler="ddim"), diffusers).steps == 50
    stable_ddim = DDIM(
        50, spacing="leading", steps_offset=1, set_alpha_to_one=False, even_stride=True
    )
    assert build_sampler(SamplerOptions(), diffusers) == stable_ddim


def test_a_sampler_asked_for_by_name_brings_its_own_levels(stable, run_path):
    """The scheduler of the pipeline says leading, with an offset, which is not what suits them."""
    for path, last in ((stable, {"set_alpha_to_one": False}), (run_path, {})):

        def build(path=path, **options):
            return build_sampler(SamplerOptions(steps=9, **options), Pipeline.open(path))

        assert build(sampler="ddpm") == DDPM(9, spacing="trailing")
        assert build(sampler="heun") == Heun(9)
        assert build(sampler="euler") == Euler(9)
        assert build(sampler="dpm_solver") == DPMSolver(9, **last)
        assert build(sampler="ddpm", spacing="leading") == DDPM(9, spacing="leading")
        spaced = DPMSolver(9, spacing="linspace", noise_levels="spaced", **last)
        assert build(sampler="dpm_solver", spacing="linspace") == spaced
        assert build(sampler="heun", noise_levels="log_snr") == Heun(9, noise_levels="log_snr")
        assert build(sampler="ddim").steps == 9


def test_a_run_that_says_leading_starts_where_the_noise_is(run_path, tmp_path, recwarn):
    """As all runs did once, whose chain still holds signal where leading steps start."""
    old = tmp_path / "old"
    shutil.copytree(run_path, old)
    file = old / "scheduler" / "scheduler_config.json"
    written = json.loads(file.read_text())
    assert written["timestep_spacing"] == "trailing"
    file.write_text(json.dumps(written | {"timestep_spacing": "leading"}))
    schedule = nelbo.load(old).schedule
    for sampler in (None, *SAMPLERS):
        built = build_sampler(SamplerOptions(sampler=sampler, steps=5), Pipeline.open(old))
        assert built.start_level(schedule).t == schedule.num_levels
    assert nelbo.load_sampler(old, 5) == DDPM(5, spacing="trailing")
    for options in ([], ["--sampler", "ddim"]):
        some = ["sample", str(old), "-n", "1", "--steps", "5", *options]
        main([*some, "--out", str(tmp_path / "x.png")])
    assert not [w for w in recwarn if "pure noise" in str(w.message)]


@pytest.mark.filterwarnings("default:.*starts from pure noise at level:UserWarning")
def test_starting_where_there_is_signal_is_warned_of_in_one_line(run_path, tmp_path, capsys):
    leading = ["--sampler", "ddim", "--steps", "5", "--spacing", "leading", "--batch-size", "1"]
    main(["sample", str(run_path), "-n", "3", *leading, "--out", str(tmp_path / "x.png")])
    [line] = [x for x in capsys.readouterr().err.splitlines() if "signal" in x]
    schedule = nelbo.load(run_path).schedule
    here, end = 100 * schedule.alphas_cumprod[[17, 20]]
    assert f"at level 17 of 20, where {here:.0f}% of the variance is signal" in line
    assert f"it is {end:.2g}%" in line
    assert "--spacing trailing" in line


def test_guidance_of_a_pixel_model(run_path):
    options = ConditionOptions(guidance=2.0, guidance_interval=(0.3, 1.0), guidance_rescale=0.5)
    assert guidance_of(options) == nelbo.Guidance(2.0, (0.3, 1.0), 0.5)
    pictures = PictureModel(Pipeline.open(run_path), make())
    assert condition_of(options, pictures, 2) is None
    chain, _ = pictures.model.conditioned(2, **guiding(options, pictures))
    assert chain.network.scale == 2.0
    assert chain.network.rescale == 0.5
    first, last = chain.network.times
    assert 0 < first < last < 11


def test_classes_by_name(tmp_path, capsys):
    network = tiny.pixel_unet(num_class_embeds=3)
    network.save_pretrained(tmp_path / "unet")
    model = nelbo.Diffusion(
        nelbo.UNet.from_pretrained(tmp_path / "unet"),
        nelbo.NoiseSchedule.scaled_linear(),
        shape=(network.config.in_channels, 8, 8),
    )

    def drawn(label: str, names: list[str]) -> list:
        nelbo.save(model, tmp_path / "model", notes={"label_names": names})
        files = tmp_path / f"{label}-{len(names)}-{names[:1]}"
        out = ["--out", str(tmp_path / "x.png"), "--files", str(files), "-n", "1", "--steps", "2"]
        main(["sample", str(tmp_path / "model"), *out, "--label", label])
        return read_files(files).tolist()

    names = ["cat", "Great apes", "dog"]
    by_number = [drawn(str(label), []) for label in range(3)]
    assert by_number[0] != by_number[1] != by_number[2]
    assert [drawn(label, names) for label in ("CAT", "great apes", "dog")] == by_number
    assert drawn("1", names) == by_number[1]
    # a class whose name is a number is meant by its name
    assert drawn("1", ["2", "0", "1"]) == by_number[2]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        drawn("great ape", names)
    said = " ".join(capsys.readouterr().err.split())
    assert "one of cat, Great apes, dog, got great ape (did you mean Great apes?)" in said
