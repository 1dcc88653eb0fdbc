"""The lines of `her2st.py`: which network on which features, and with which settings."""

from __future__ import annotations

import stpredict as stp

PLAIN, WIDE, DEFAULT, NEAR, IMAGENET = "color-texture", "context", "default", "neighbors", "mobilenet_v2"
FREE = ("color-statistics", "random-filters")  # encoders that cost nothing


def per_section(slot: str | list[str]) -> dict:
    """Features of which each is standardized within its section."""
    return {"slot": slot, "scaling": "section"}


def as_they_are(slot: str) -> dict:
    """Features that are scaled over all sections."""
    return {"slot": slot, "scaling": "global"}


MODELS = {
    "mean": {"model": "mean"},
    "color": {"model": "color"},
    "ridge": {"model": "ridge", "features": as_they_are(PLAIN)},
    "ridge, per section": {"model": "ridge", "features": per_section(PLAIN)},
    "ridge, context": {"model": "ridge", "features": as_they_are(WIDE)},
    "ridge, context, per section": {"model": "ridge", "features": per_section(WIDE)},
    "mlp": {"model": "mlp", "features": as_they_are(PLAIN)},
    "mlp, context, per section": {"model": "mlp", "features": per_section(WIDE)},
}
TRIED = {
    "ridge, centered per section": {
        "model": "ridge",
        "features": as_they_are(PLAIN),
        "hyperparameters": {"center": "section"},
    },
    "ridge, rank 10": {"model": "ridge", "features": as_they_are(PLAIN), "hyperparameters": {"rank": 10}},
    "ridge, neighbors' mean, per section": {"model": "ridge", "features": per_section([PLAIN, NEAR])},
    "ridge, context and neighbors, per section": {"model": "ridge", "features": per_section([WIDE, NEAR])},
    "ridge, MobileNetV2, per section": {"model": "ridge", "features": per_section(IMAGENET)},
    "ridge, context and MobileNetV2, per section": {"model": "ridge", "features": per_section([WIDE, IMAGENET])},
    "ridge, context, per section, rank 10": {
        "model": "ridge",
        "features": per_section(WIDE),
        "hyperparameters": {"rank": 10},
    },  # fmt: skip
    "mlp, context, per section, mean and std": {
        "model": "mlp",
        "features": per_section(WIDE),
        "hyperparameters": {"heteroscedastic": True},
    },  # fmt: skip
}
# Small patches and few epochs from random weights: what two cores can do, not what the paper did.
STNET = {
    "stnet (64 px, 5 epochs, random start)": {
        "model": "stnet",
        "hyperparameters": {"patch_px": 64, "symmetries": True},
        "training": {"max_epochs": 5, "patience": 0},
    }
}
TINY_STNET = {
    "stnet (32 px, 3 epochs, random start)": {
        "model": "stnet",
        "hyperparameters": {"patch_px": 32, "symmetries": False},
        "training": {"max_epochs": 3, "patience": 0},
    }
}
# Two levels instead of five, for sections of 30 x 30 spots; one section per step, as there are four at most.
_HIST = {
    "model": "hist",
    "hyperparameters": {"width": 32, "levels": 2, "mixer_depth": 0},
    "training": {"batch_size": 1},
}
HIST = {
    "hist, per section": _HIST | {"features": per_section(PLAIN)},
    "hist, MobileNetV2, per section": _HIST | {"features": per_section(IMAGENET)},
    "hist without gates, per section": _HIST
    | {"features": per_section(PLAIN), "hyperparameters": _HIST["hyperparameters"] | {"gates": False}},
    "hist, shuffled, per section": _HIST
    | {"features": per_section(PLAIN), "hyperparameters": _HIST["hyperparameters"] | {"shuffle": True}},
}
# Small networks of few epochs, what two cores can do; settings chosen on the inner validation or on simulated sections.
_PIXELS = {"symmetries": True, "views": 0}
_RETRIEVAL = {"image_encoder": "features", "weighting": "similarity"}
SECTION_LEVEL = {
    "egn": {
        "model": "egn",
        "features": as_they_are(PLAIN),
        "hyperparameters": {"hidden": 128, "layers": 2},
        "training": {"learning_rate": 2e-3},
    },
    "hggep": {
        "model": "hggep",
        "hyperparameters": _PIXELS
        | {"patch_px": 56, "dim": 256, "depth": 1, "mlp_dim": 256, "hypergraph_hidden": 128, "lstm_layers": 1},
        "training": {"learning_rate": 1e-3, "max_epochs": 10, "patience": 4},
    },
    "hist2st, without ZINB": {
        "model": "hist2st",
        "hyperparameters": _PIXELS
        | {"patch_px": 28, "side": 4, "dim": 128, "depth": 2, "heads": 2, "mlp_dim": 128, "zinb": 0.0},
        "training": {"learning_rate": 3e-4, "max_epochs": 40, "patience": 40},
    },
    "histogene": {
        "model": "histogene",
        "hyperparameters": _PIXELS
        | {"patch_px": 14, "patch_um": 150.0, "dim": 64, "depth": 1, "heads": 4, "dim_head": 32},
        "training": {"learning_rate": 1e-3, "max_epochs": 40, "patience": 10},
    },
    "thitogene": {
        "model": "thitogene",
        "hyperparameters": _PIXELS
        | {"patch_px": 44, "patch_um": 150.0, "depth": 2, "heads": 4, "dim_head": 32, "mlp_dim": 256, "hidden": 128}
        | {"capsules": 10, "dim_capsule": 16, "graph_heads": 4, "graph_dim": 64, "graph_outputs": 64},
        "training": {"learning_rate": 3e-4, "max_epochs": 30, "patience": 8},
    },
    "bleep, per section": {"model": "bleep", "features": per_section(PLAIN), "hyperparameters": _RETRIEVAL},
    "mclstexp, per section": {
        "model": "mclstexp",
        "features": per_section(PLAIN),
        "hyperparameters": _RETRIEVAL | {"width": 64, "heads": 4, "dim_head": 16},
        "training": {"learning_rate": 1e-3},
    },
}
# What retrieval networks find as it is found, as published.
AS_FOUND = {
    f"{name}, as found": SECTION_LEVEL[f"{name}, per section"]
    | {"hyperparameters": SECTION_LEVEL[f"{name}, per section"]["hyperparameters"] | {"shrink": False}}
    for name in ("bleep", "mclstexp")
}
# A line of each model, in the order of what it costs.
_BEST = MODELS["ridge, context, per section"]
DEPTH = (
    {name: MODELS[name] for name in ("mean", "ridge", "ridge, context, per section")}
    | {"ridge, as by default": {"model": "ridge", "features": DEFAULT}}
    | {"ridge to counts, context, per section": _BEST | {"target": stp.targets.Counts}}
    | {f"ridge, {slot}, per section": {"model": "ridge", "features": per_section(slot)} for slot in FREE}
    | {"mlp": MODELS["mlp"]}
    | {name: SECTION_LEVEL[name] for name in ("bleep, per section", "mclstexp, per section")}
    | AS_FOUND
    | {"histogene": SECTION_LEVEL["histogene"]}
    | {"hist, per section": HIST["hist, per section"]}
    | {name: SECTION_LEVEL[name] for name in ("egn", "hist2st, without ZINB", "thitogene", "hggep")}
    | {"color": MODELS["color"]}
    | TINY_STNET
)
GROUPS = {"main": MODELS, "stnet": STNET, "hist": HIST, "sections": SECTION_LEVEL, "tried": TRIED}
BESIDE = ("mean", "ridge", "ridge, per section", "ridge, context, per section")  # in the table of every other group
CLOSED_FORM = {"mean", "ridge"}
ONE_SEED = {*CLOSED_FORM, "color", "stnet"}
# What looks up training spots: within one patient there are no others to look up.
RETRIEVAL = {"bleep", "mclstexp", "egn"}
