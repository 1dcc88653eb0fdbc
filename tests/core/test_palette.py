"""Colors of categories, in the eyes of people with and without a color deficiency."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from stpredict.core._palette import PALETTE, category_colors

#: From linear RGB to what is seen of it, at full severity: table 1 of Machado, Oliveira and Fernandes 2009.
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colors, eyes) -> np.ndarray:
    """Colors (n, 3) in CIELAB."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(EYES[eyes])
    linear = np.clip(linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("eyes", EYES)
def test_any_two_of_twenty_are_told_apart(eyes) -> None:
    lab = seen(category_colors(20), eyes)
    distance = deltaE_ciede2000(lab[:, None], lab[None])
    assert distance[np.triu_indices(20, 1)].min() > 9.5


def test_more_than_twenty() -> None:
    colors = category_colors(45)
    assert len(set(colors)) == 45
    assert colors[:20] == [color.lower() for color in PALETTE]
    assert colors[:8] == category_colors(8)
