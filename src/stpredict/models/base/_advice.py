"""What each model takes to train, when to use it, and whether it beat the ridge here: for people and for `suggest`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """What is said of a model to those who choose one.

    Attributes
    ----------
    needs, when
        What it takes to train, and when to use it.
    against_ridge
        What the tables of the results say of it beside the ridge.
    sections, patients
        With fewer of them it is not worth a try.
    """

    needs: str
    when: str
    against_ridge: str
    sections: int = 1
    patients: int = 1


#: By the name of the model, in the order in which they are worth a try.
ADVICE = {
    "mean": Advice(
        "1 section; no memory to speak of",
        "always, as the line that every error has to beat",
        "no: it is the floor",
    ),
    "color": Advice(
        "1 section, pictures; patches in memory",
        "as the control of what staining alone predicts",
        "no: .067 of .111 within a patient",
    ),
    "ridge": Advice(
        "1 section or 20 patients; twice the features",
        "first, and as the bar for everything else",
        "it is the bar",
    ),
    "mlp": Advice(
        "3 sections; features and targets",
        "features of an encoder, many spots, seconds of time",
        "no: .099 of .111 within a patient, between patients within what seeds differ by; on mouse olfactory bulb .379 of .360",
        sections=3,
    ),
    "stnet": Advice(
        "10 sections and a GPU; patches in memory",
        "no encoder is to be used, or its choice is in question",
        "no, at the size that two cores train",
        sections=10,
    ),
    "hist": Advice(
        "4 sections on a lattice; 2 GB for 128 × 128 spots and 64 channels",
        "genes follow an arrangement wider than the view of the features",
        "no: .106 of .111 within a patient",
        sections=4,
    ),
    "hggep": Advice(
        "10 sections and a GPU; 9.4 GB for a section of 5,000 spots",
        "to compare with its publications",
        "no; below 0 between patients under log1p",
        sections=10,
    ),
    "hist2st": Advice(
        "10 sections and a GPU; quadratic in the spots of a section",
        "to compare with its publications",
        "no",
        sections=10,
    ),
    "histogene": Advice(
        "10 sections and a GPU; quadratic in the spots of a section",
        "to compare with its publications",
        "no",
        sections=10,
    ),
    "thitogene": Advice(
        "10 sections and a GPU; quadratic in the spots of a section",
        "to compare with its publications",
        "no",
        sections=10,
    ),
    "egn": Advice(
        "2 patients, as it looks up spots of other ones",
        "training tissue resembles the new one, spot for spot",
        "on residuals .035 of .018 from C to B4, one seed; not within a patient; needs more than one patient from B4 to C",
        patients=2,
    ),
    "bleep": Advice(
        "2 sections; the training expression is part of the model",
        "profiles of real spots are wanted, not values gene by gene",
        "no: .097 of .111 within a patient",
        sections=2,
    ),
    "mclstexp": Advice(
        "2 sections; the training expression is part of the model",
        "as `bleep`, where the neighbors of a spot matter",
        "no: .100 of .111 within a patient",
        sections=2,
    ),
    "hescape": Advice(
        "2 patients; the training expression is part of the model",
        "to ask whether picture and expression find each other (`tl.align`)",
        "alignment takes .000 to .014 of r from the ridge, and adds nothing",
        patients=2,
    ),
    "triplex": Advice(
        "4 sections, 25 tiles around every spot; linear in the section",
        "genes follow the ring of tiles around a spot",
        "between patients .014 and .017 of .011 and .005, by 1.5 of what seeds differ by; on mouse olfactory bulb .380 of .360, and of .374 with surroundings",
        sections=4,
    ),
    "bg_triplex": Advice(
        "as `triplex`, with drawings of edges and nuclei of every tile",
        "genes change at boundaries between tissues",
        "on simulated boundaries; between patients .016 and .018 of .011 and .005, where `triplex` has .014 and .017: less than seeds "
        "differ by",
        sections=4,
    ),
    "igi_dl": Advice(
        "2 sections and nuclei; with pixels 10 sections and a GPU",
        "nuclei, their types and how they lie are what the genes should follow",
        "between patients, on the 50 genes measured best: .209 of .171 (ridge on nuclei), and .173 of .118 with seeds that differ by .04",
        sections=2,
    ),
    "dkan": Advice(
        "4 sections and a table of genes",
        "genes that were never measured, through what is known of them",
        "no: .008 and .011 of .011 and .005 between patients",
        sections=4,
    ),
    "comtip": Advice(
        "4 sections and a table of genes; memory by `chunk`",
        "pictures and genes in one space, or genes that were never measured",
        "no: .008 and .016 of .011 and .005 between patients, one seed",
        sections=4,
    ),
    "stem": Advice(
        "4 sections; 20 samples for each spot",
        "the spread of a gene is asked for, or how genes go together, and not its mean alone",
        "no: .000 and .001 of .011 and .005 between patients",
        sections=4,
    ),
    "sequoia": Advice(
        "50 patients with bulk expression; 100 tokens a slide",
        "slides without spots, and maps from them",
        "no: .02 to .05 below it on simulated slides",
        patients=50,
    ),
    "slide_transformer": Advice(
        "as `sequoia`",
        "as the control of `sequoia`",
        "no: .02 to .06 below it on simulated slides",
        patients=50,
    ),
    "he2rna": Advice(
        "50 patients with bulk expression; single tiles, no context",
        "maps whose tiles do not see each other",
        "no: .17 to .21 below it on simulated slides",
        patients=50,
    ),
    "hist2rna": Advice(
        "50 patients with bulk expression; one mean per slide",
        "as the control of every network that looks at tiles",
        "no: .09 below it on simulated slides",
        patients=50,
    ),
    "deeppt": Advice(
        "50 patients with bulk expression, slides without it help; all tiles as tokens, in memory",
        "maps of single tiles that average to their slide",
        "no: .04 below it on simulated slides, .03 as the mean of five",
        patients=50,
    ),
    "sequoia_spot": Advice(
        "3 sections; features and targets",
        "as the control of networks that look beyond the spot",
        "no: .02 below it on simulated slides; no line on real sections yet",
        sections=3,
    ),
    "convnext": Advice(
        "50 patients with an outcome, maps of their slides",
        "outcomes from maps",
        "it predicts no expression",
        patients=50,
    ),
    "super_patches": Advice(
        "50 patients with an outcome, maps of their slides",
        "outcomes that follow regions of a map, wherever these lie",
        "it predicts no expression",
        patients=50,
    ),
    "istar": Advice(
        "1 section, some hundred spots, a picture of 0.5 µm per pixel; memory by `chunk`",
        "maps inside and between spots of the section itself",
        "its own ridge between spots at every size of places; on few spots neither beats interpolation",
    ),
    "seq2exp": Advice(
        "hundreds of genes with their DNA and signals; no pictures",
        "which bases of the surroundings of a gene matter",
        "no line on real genes",
    ),
    "gta": Advice(
        "hundreds of genes with features of windows; no pictures",
        "DNA through a frozen language model of your own",
        "no: .949 of .953 (a ridge on the same windows) on made-up genes",
    ),
}
