"""Colors of categories."""

from __future__ import annotations

import numpy as np

#: Seven of Okabe and Ito (wine replaces their yellow, weak on white), then colors that lie farthest from all before
#: them and from the gray of what has no category, by CIEDE2000 in the eyes of people with normal vision and with each
#: of the three color deficiencies. Any two are at least 9.5 apart for all of them.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#F0D2A5", "#785A4B", "#8778FF",
    "#96B4A5", "#A54B78", "#96E1FF", "#A5B478", "#3C3C00", "#0000C3", "#5A0078", "#003C2D", "#5A5A0F", "#3C1EFF",
)  # fmt: skip
_SHADES = ((1.0, 0.0), (0.55, 0.45), (0.3, 0.68))  # factor on the color, and white added


def category_colors(n: int) -> list[str]:
    """Colors of `n` categories; after twenty the palette comes again in two lighter shades."""
    colors = []
    for index in range(n):
        factor, white = _SHADES[(index // len(PALETTE)) % len(_SHADES)]
        text = PALETTE[index % len(PALETTE)]
        base = np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        red, green, blue = np.round(np.clip(base * factor + white, 0, 1) * 255).astype(int)
        colors.append(f"#{red:02x}{green:02x}{blue:02x}")
    return colors
