"""How a run was trained, for the top of its report, and which of its settings applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nelbo.diffusion.objectives import SHIFTED
from nelbo.report.formatting import duration, number
from nelbo.report.validation_trend import validation_trend


def training_facts(
    notes: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Names and values: steps and time, passes over the data, validation, hardware.

    Args:
        notes: what the run's nelbo.json holds.
        metrics: rows of the training loop.
    """
    trained = notes.get("trained")
    if not trained:
        return {}
    facts = {"training": f"{trained['steps']:,} steps"}
    if "seconds" in trained:
        facts["training"] += f" in {duration(trained['seconds'])}"
    count = passes(notes)
    if count is not None:
        shown = number(count, 1 if count < 10 else 0)
        facts["passes over the data"] = f"{shown} ({notes['training_images']:,} pictures)"
    if trend := validation_trend(metrics):
        facts["validation"] = trend.phrase
    computed = [str(notes["hardware"])] if "hardware" in notes else []
    if threads := trained.get("threads"):
        computed.append(f"{threads} thread{'s' * (threads > 1)}")
    if precision := trained.get("precision"):
        computed.append(precision)
    if computed:
        facts["computed on"] = ", ".join(computed)
    return facts


def passes(notes: Mapping[str, Any]) -> float | None:
    """How often each training picture was seen on average; None for a stream, or where unknown."""
    images, trained = notes.get("training_images"), notes.get("trained")
    batch = notes.get("settings", {}).get("training", {}).get("batch_size")
    if not images or not trained or not batch:
        return None
    return trained["steps"] * batch / images


def run_settings(
    notes: Mapping[str, Any], *, condition: str | None = None, channels: int | None = None
) -> dict[str, Any]:
    """The settings of a run that apply, by its notes, with what it was trained on and for.

    Args:
        notes: what the run's nelbo.json holds.
        condition: text, label or none, where the settings leave it to the images.
        channels: of the images.
    """
    source = {"source": notes["source"]} if "source" in notes else {}
    settings = {"run": {**source, **notes.get("trained", {})}, **notes.get("settings", {})}
    if isinstance(settings.get("model"), Mapping):
        model = settings["model"] = dict(settings["model"])
        if condition is not None and model.get("condition") == "auto":
            model["condition"] = condition
        if channels == 1:  # which have no other order
            model.pop("recoloured", None)
    return settings_that_apply(settings)


def settings_that_apply(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without those that were not set or had no effect.

    Args:
        settings: groups by name, of which `training` and `model` are known.
    """
    training = settings.get("training", {})
    kept: dict[str, Any] = {}
    for group, values in settings.items():
        if not isinstance(values, Mapping):
            kept[group] = values
            continue
        found = {
            name: value
            for name, value in values.items()
            if not _is_off(name, value)
            and (name not in _WHEN or _WHEN[name](training, settings.get("model", {})))
        }
        if found:
            kept[group] = found
    return kept


# What is off where it is zero, or false.
_SWITCHES = {
    *("checkpoint_activations", "compile", "shard", "horizontal_flip"),
    *("input_perturbation", "validate_every", "snapshot_every"),
    *("adversarial_weight", "perceptual_weight", "train_text_encoder", "class_conditional"),
}
# Settings that depend on others of training and model.
_WHEN: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], bool]] = {
    "snr_gamma": lambda training, model: training.get("objective") == "min_snr",
    "sigmoid_bias": lambda training, model: training.get("objective") == "sigmoid",
    "level_shift": lambda training, model: training.get("objective") in SHIFTED,
    "balance_power": lambda training, model: training.get("balance") != "none",
    "balance": lambda training, model: training.get("balance") != "none",
    "shift": lambda training, model: _is_flow(model),
    "label_dropout": lambda training, model: _is_conditional(model),
    "guidance": lambda training, model: _is_conditional(model),
    **dict.fromkeys(
        ("objective", "level_sampler"), lambda training, model: "likelihood" not in model
    ),
    **dict.fromkeys(
        ("text_width", "text_layers", "text_heads", "vocabulary"),
        lambda training, model: (
            model.get("condition") in ("text", "auto") and not model.get("text_encoder")
        ),
    ),
}


def _is_conditional(model: Mapping[str, Any]) -> bool:
    """Whether the network is conditioned on a class or a caption."""
    return bool(model.get("class_conditional")) or model.get("condition", "none") != "none"


def _is_flow(model: Mapping[str, Any]) -> bool:
    """Whether the noise schedule is that of flow matching."""
    schedule = model.get("schedule")
    return schedule == "flow_matching" or (not schedule and model.get("prediction") == "velocity")


def _is_off(name: str, value: Any) -> bool:
    if name == "gradient_accumulation":
        return value == 1
    return value in (None, "", (), []) or (name in _SWITCHES and not value)
