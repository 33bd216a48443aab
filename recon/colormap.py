"""Numbers as colours, for depth and error pictures."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

# Every 15th of the 256 entries of matplotlib's maps of these names; linear in between, they are within 6/255 of the
# whole tables. Viridis and inferno (Smith and van der Walt 2015, CC0) go from dark to bright in perceptually even
# steps; turbo (Mikhailov 2019, Apache-2.0) goes through all hues, which tells more values apart.
VIRIDIS = "440154481769472a7a433d843d4e8a355e8d2e6d8e297b8e23898e1f978b21a5852eb37c46c06f65cb5e89d548b0dd2fd8e219fde725"
INFERNO = "0000040a07221e0c45380962510e6c69166e801f6c982766b0315bc63d4dd94d3de9612bf47918fa9407fcb014f8cd37f2ea69fcffa4"
TURBO = "30123b3f3e9c4666dd458cfd2fb2f41ad4d022ebaa52fa7a8bff4bb7f735dbe236f5c53afea130f9751de84b0cce2d04a916017a0403"
GREY = "000000ffffff"
TABLES = {"viridis": VIRIDIS, "inferno": INFERNO, "turbo": TURBO, "grey": GREY}


STEPS = 1024  # that values are told apart in: a third of a level of 8 bits


def colourise(values: NDArray[np.floating], table: str = VIRIDIS) -> NDArray[np.float32]:
    """Colours [...,3] 0..1 of values [...]; 0 is the table's first, 1 its last, what lies outside is cut."""
    with np.errstate(invalid="ignore"):  # what is no number has the first colour
        rows = (np.clip(values, 0, 1) * (STEPS - 1) + 0.5).astype(np.int32)
    return _steps(table).take(rows, axis=0, mode="clip")


@functools.cache
def _steps(table: str) -> NDArray[np.float32]:
    """[STEPS,3] the colours of evenly spaced values."""
    colours = np.frombuffer(bytes.fromhex(table), np.uint8).reshape(-1, 3) / 255
    positions, wanted = np.linspace(0, 1, len(colours)), np.linspace(0, 1, STEPS)
    return np.stack([np.interp(wanted, positions, channel) for channel in colours.T], axis=-1).astype(np.float32)
