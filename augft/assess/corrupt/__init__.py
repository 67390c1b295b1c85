"""The fifteen common corruptions at five severities.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019,
with the strengths of its CIFAR-10-C. Lengths (radii, reaches, flakes) grow in proportion to the picture's shorter side
over 32 px; what each pixel suffers alone (noise, contrast, brightness, compression) is the same at any size. So figures
compare with those of CIFAR-10-C at 32 px, and with nobody else's at other sizes.

As there, the grey level is what is left after cutting off the fraction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from augft.assess.corrupt.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from augft.assess.corrupt.digital import contrast, elastic_transform, jpeg_compression, pixelate
from augft.assess.corrupt.draws import Draws, Float32Array
from augft.assess.corrupt.noise import gaussian_noise, impulse_noise, shot_noise
from augft.assess.corrupt.weather import brightness, fog, frost, snow
from augft.augment.draw import IntArray

UInt8Array = npt.NDArray[np.uint8]
Corruption = Callable[[Float32Array, int, Draws], Float32Array]

GROUPS: dict[str, tuple[Corruption, ...]] = {
    "noise": (gaussian_noise, shot_noise, impulse_noise),
    "blur": (defocus_blur, glass_blur, motion_blur, zoom_blur),
    "weather": (snow, frost, fog, brightness),
    "digital": (contrast, elastic_transform, pixelate, jpeg_compression),
}
CORRUPTIONS: dict[str, Corruption] = {each.__name__: each for group in GROUPS.values() for each in group}
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images_u8: UInt8Array, name: str, severity: int, *, seed: int, sample_ids: IntArray) -> UInt8Array:
    """Corrupt pictures; each result is a function of its picture, (seed, sample id, name, severity), and nothing else.

    Args:
        images_u8: uint8 (N, H, W, 3), RGB; not changed.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: any integer.
        sample_ids: int64 (N,).

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        ValueError: an unknown name, a severity out of range, or ids that do not go with the pictures.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(f"no corruption {name!r} of severity {severity}: one of {', '.join(CORRUPTIONS)}, 1 to 5")
    if len(sample_ids) != len(images_u8):
        raise ValueError(f"{len(sample_ids)} sample ids for {len(images_u8)} pictures")
    if not len(images_u8):
        return images_u8.copy()
    draws = Draws(seed, name, severity, np.asarray(sample_ids, np.int64))
    x = CORRUPTIONS[name](images_u8.astype(np.float32) / np.float32(255), severity - 1, draws)
    # What was a whole level shall still be one after a division and a multiplication in float32.
    levels: UInt8Array = np.floor(np.clip(x * np.float32(255), 0, 255) + np.float32(1e-3)).astype(np.uint8)
    return levels
