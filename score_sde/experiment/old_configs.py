"""Configs that earlier versions stored, in the fields of today."""

from __future__ import annotations

from typing import Any

from score_sde.config import call, parse


def renewed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config, as JSON gives it, with today's fields; one of today is not changed."""
    config = {part: dict(v) if isinstance(v, dict) else v for part, v in stored.items()}
    for part, old, new in (
        (config, "conditioning", "c_noise"),
        (config.get("data", {}), "levels", "num_values"),
        (config.get("watermark", {}), "level", "p_value"),
    ):
        if old in part:
            part[new] = part.pop(old)
    _codec(config)
    _augment(config.get("data", {}))
    _objective(config.get("objective", {}))
    _optimizer(config.get("optim", {}))
    _adapter(config)
    return config


def _codec(config: dict[str, Any]) -> None:
    data, sampling = config.get("data", {}), config.get("sampling", {})
    if "centered" not in data:
        return
    config["codec"] = {
        "name": "pixels",
        "centered": data.pop("centered"),
        "dequantize": data.pop("dequantize", False),
        "truncate": sampling.pop("truncate", False),
    }
    config["conditioner"] = "labels"


def _augment(data: dict[str, Any]) -> None:
    if "flip" in data:
        data["augment"] = "flip" if data.pop("flip") else "none"


def _objective(objective: dict[str, Any]) -> None:
    """Every objective had the fields of `denoising`."""
    if objective.get("name") == "classification":
        for field in ("drop_cond", "weighting", "reduction"):
            objective.pop(field, None)


def _optimizer(optim: dict[str, Any]) -> None:
    if "beta1" not in optim:
        return
    names = {"b1": ("beta1", 0.9), "b2": ("beta2", 0.999), "eps": ("eps", 1e-8)}
    given = {ours: optim.pop(theirs) for ours, (theirs, _) in names.items()}
    options = [f"{name}={value!r}" for name, value in given.items() if value != names[name][1]]
    options.append(f"weight_decay={optim.pop('weight_decay')!r}")
    optim["optimizer"] = f"adamw({', '.join(options)})"


def _adapter(config: dict[str, Any]) -> None:
    """LoRA was called low_rank, its alpha scale, and that was 1 unless it was given."""
    spec = config.get("adapter")
    if spec is None or not spec.startswith("low_rank"):
        return
    _, options = parse(spec)
    options["alpha"] = options.pop("scale", 1.0)
    config["adapter"] = call("lora", options)
