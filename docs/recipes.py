"""How the published networks were trained, for the table of recipes; what is trained here is read from the registry."""

from __future__ import annotations

from typing import Any

import stpredict as stp

#: What papers and reference code do, whether or not it can be asked for here.
PUBLISHED = {
    "stnet": "SGD, momentum 0.9, 1e-6 on a squared error summed over the 32 patches of a step and averaged over genes "
    "(3.2e-5 on their mean); at most 50 epochs, the number chosen by 4-fold cross-validation over training patients, "
    "then trained on all of them; starts from ImageNet; patches standardized by the training patches",
    "sequoia": "Adam 1e-3, batch 16, at most 200 epochs, patience 20, loss then correlation within 0.5, 10 % validation; "
    "optionally starts from weights trained on GTEx; evaluates the last epoch",
    "slide_transformer": "as `sequoia`",
    "he2rna": "1,024 and 1,024 units, dropout 0.25, Adam 3e-4, batch 16, at most 200 epochs, patience 50, the best "
    "correlation, averaged over projects. In the comparison by {cite:t}`pizurica2024`: 256 and 256, dropout 0.5, Adam 1e-3, "
    "patience 100, the best correlation",
    "hist2rna": "Adam 1e-4, weight decay 0.01 on the squared weights, batch 12, at most 500 epochs, patience 20 on the squared "
    "error of a random tenth of the patients, no shuffling (the command-line script: 1e-3, 50 epochs)",
    "deeppt": "mean of five networks, each stopped on another fifth of the training set; groups of genes of similar median; "
    "optimizer and epochs not found",
    "hist": "Adam 1e-3, weight decay 1e-4, 5 sections a step, 200 epochs, cosine down to 1e-5; keeps the last epoch, or the "
    "best one (after 20) on the test section; no augmentation",
    "hggep": "Adam 1e-5, one section a step, at most 400 epochs (500 in the code), of which the best on the test section is "
    "kept; steps of 0.9 that restart every five epochs and never come about; 5 views; starts from ImageNet",
    "hist2st": "Adam 1e-5, times 0.9 after every 50 epochs, one section a step, 350 epochs, the last one kept; 5 views",
    "histogene": "8 blocks (4 in the class), Adam 1e-5, one section a step, 100 epochs, the last one kept",
    "thitogene": "Adam 1e-5, one section a step, 300 epochs in the training script (200 in its README), the last one kept; "
    "8 blocks instead of 4 for skin",
    "egn": "6 exemplars, AdamW 5e-4, weight decay 1e-4, one section a step, 300 epochs (the README of version 2; 50 for "
    "version 1, 30 in its argument parser), of which that with the highest correlation on the scored fold is kept",
    "bleep": "AdamW 1e-3, weight decay 1e-3, batch 256, 4 epochs, the best one on a fifth of the spots drawn at random; "
    "turns and mirror images; starts from ImageNet",
    "hescape": "AdamW 1e-5, weight decay 0.01, cosine after a warm-up of 782 steps, 20,000 to 40,000 steps of 64 tiles on each "
    "device, clipped at 5; patience 5 with a smallest gain of 0.01; image encoders frozen, or with LoRA",
    "mclstexp": "Adam 1e-4, weight decay 1e-3, 128 shuffled spots a step, no dropout in the projection heads, 90 epochs, the "
    "last one kept; turns by any angle, mirror images and jittered colors; starts from ImageNet",
    "stem": "AdamW 1e-4 without weight decay, 256 spots a step (the last, smaller part left out), 4,000 epochs, of which "
    "the weights after 300,000 steps are used, averaged with 0.9999; seven turned or mirrored copies of each patch; no validation",
    "igi_dl": "Adam 2e-4, weight decay 1e-4, batch 512, at most 300 epochs, patience 30 on a fifth of the spots drawn at random "
    "from the training sections; colors normalized to a reference image, no augmentation; no pretrained weights",
    "super_patches": "learning rate 5e-4, 600 to 1,000 epochs, Cox loss, a tenth of the links dropped",
    "seq2exp": "AdamW 5e-4 with betas 0.9 and 0.95, weight decay 1e-6, batch 8, 50,000 steps: a warm-up of a tenth from 1e-5, then "
    "cosine down to 1e-4; bfloat16, clipped at 1; the best squared error on the validation chromosomes; one split",
    "convnext": "AdamW with betas 0.9 and 0.95, weight decay 0.05 (not on offsets), cosine down to 1e-5, dropped paths 0.4, "
    "no augmentation; survival: 5e-3, 300 epochs, all patients a step; response: 5e-5, 200 epochs, 20 a step (the released "
    "vignettes: 0.015 and 1e-4, 200 epochs, and the code multiplies each by the number of batches over 256); the best epoch "
    "on the test fold is kept",
}


def _said(settings: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in settings.items()) or "nothing"


def default_training(name: str) -> str:
    """Training settings of a network that are not those of the loop."""
    if name in ("convnext", "super_patches"):  # which :func:`stpredict.tl.fit_outcome` trains
        from stpredict.tl.outcomes._network import _COMMON, _TRAINING

        return "; ".join(f"{kind.replace('_', '-')}: {_said(_COMMON | own)}" for kind, own in _TRAINING.items())
    return _said(dict(stp.models.get_model(name).cls.training_defaults))


def recipes() -> dict[str, list[str]]:
    """Columns of the table of recipes."""
    names = [name for name in PUBLISHED if name in stp.models.list_models().index]
    presets = [
        {key: preset for key, preset in stp.models.get_model(name).presets.items() if key != "small"} for name in names
    ]
    return {
        "model": [f"[`{name}`](#{name})" for name in names],
        "default here": [default_training(name) for name in names],
        "published": [PUBLISHED[name] for name in names],
        "preset": [
            "; ".join(f"`{key!r}`: {_said({**each.hyperparameters, **each.training})}" for key, each in of.items())
            for of in presets
        ],
    }
