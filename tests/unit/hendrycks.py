"""Corruptions as the benchmark's program has them, one picture at a time, for a test to compare with.

Written after `make_cifar_c.py` of Hendrycks and Dietterich (ICLR 2019), with its own strengths and its order of steps,
in NumPy, SciPy, Pillow and OpenCV. Only chance is taken from elsewhere: where the program asks NumPy's generator, the
same numbers are taken from `draws`. Motion is ImageMagick's there; here it is written out from its definition. Frost is
left out: the benchmark's photographs of ice are not at hand.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage, stats

from augft.assess.corrupt.draws import Draws

Array = np.ndarray[Any, Any]


def gaussian_noise(x: Array, level: int, draws: Draws) -> Array:
    c = [0.04, 0.06, 0.08, 0.09, 0.10][level]
    return x + c * draws.normal("noise", x.shape)[0]


def shot_noise(x: Array, level: int, draws: Draws) -> Array:
    c = [500, 250, 100, 75, 50][level]
    return stats.poisson.ppf(draws.uniform("noise", x.shape)[0], x * c) / c


def impulse_noise(x: Array, level: int, draws: Draws) -> Array:
    c = [0.01, 0.02, 0.03, 0.05, 0.07][level]
    u = draws.uniform("noise", x.shape)[0]
    flipped, salted = u < c, u < c / 2
    out = x.copy()
    out[flipped & salted] = 1
    out[flipped & ~salted] = 0
    return out


def defocus_blur(x: Array, level: int, draws: Draws) -> Array:
    import cv2

    radius, alias_blur = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][level]
    at_x, at_y = np.meshgrid(np.arange(-8, 8 + 1), np.arange(-8, 8 + 1))
    disk = np.array((at_x**2 + at_y**2) <= radius**2, np.float32)
    disk /= np.sum(disk)
    kernel = cv2.GaussianBlur(disk, ksize=(3, 3), sigmaX=alias_blur)
    return np.stack([cv2.filter2D(x[:, :, d], -1, kernel) for d in range(3)], axis=2)


def glass_blur(x: Array, level: int, draws: Draws) -> Array:
    sigma, reach, times = [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)][level]

    def gaussian(image: Array) -> Array:
        return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")

    pixels = stored(gaussian(x))
    for time in range(times):
        words = draws.words(f"places/{time}", (2, 32, 32))[0]
        for h in range(32 - reach, reach, -1):
            for w in range(32 - reach, reach, -1):
                # np.random.randint(-reach, reach), of 32 random bits
                dy, dx = (int(words[axis, h, w]) * 2 * reach // 2**32 - reach for axis in (0, 1))
                # It means to swap them; both sides being views of one array, this is what it does.
                pixels[h, w] = pixels[h + dy, w + dx]
    return gaussian(pixels / 255)


def motion_blur(x: Array, level: int, draws: Draws) -> Array:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][level]
    return _motion(x, radius, sigma, float(draws.uniform("angle", low=-45, high=45)[0]))


def zoom_blur(x: Array, level: int, draws: Draws) -> Array:
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][level], 0.01)
    out = np.zeros_like(x)
    for factor in factors:
        out += _clipped_zoom(x, factor)
    return (x + out) / (len(factors) + 1)


def snow(x: Array, level: int, draws: Draws) -> Array:
    mean, deviation, zoom, threshold, radius, sigma, kept = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][level]
    layer = mean + deviation * draws.normal("flakes", (32, 32, 1))[0].astype(np.float64)
    layer = _clipped_zoom(layer, zoom)
    layer[layer < threshold] = 0
    layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8) / 255
    layer = _motion(layer, radius, sigma, float(draws.uniform("angle", low=-135, high=-45)[0]))
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return x + layer + np.rot90(layer, k=2)


def fog(x: Array, level: int, draws: Draws) -> Array:
    c = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][level]
    most = x.max()
    x = x + c[0] * plasma(draws.uniform("fog", (32, 32), -1, 1)[0], c[1])[..., None]
    return x * most / (most + c[0])


def brightness(x: Array, level: int, draws: Draws) -> Array:
    c = [0.05, 0.1, 0.15, 0.2, 0.3][level]
    out = np.empty_like(x)
    for place in np.ndindex(*x.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[place])
        out[place] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + c))
    return out


def contrast(x: Array, level: int, draws: Draws) -> Array:
    c = [0.75, 0.5, 0.4, 0.3, 0.15][level]
    means = np.mean(x, axis=(0, 1), keepdims=True)
    return (x - means) * c + means


def elastic_transform(x: Array, level: int, draws: Draws) -> Array:
    c = [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)][level]
    strength, sigma, reach = (32 * part for part in c)
    middle, square = np.array([16.0, 16.0]), 10
    before = np.array([middle + square, [middle[0] + square, middle[1] - square], middle - square])
    after = before + draws.uniform("affine", (3, 2), -reach, reach)[0]
    # cv2.getAffineTransform and warpAffine, without their rounding of places to 1/32 of a pixel
    back = np.linalg.solve(np.c_[after, np.ones(3)], before).T
    y, columns = np.mgrid[:32, :32]
    at_x, at_y = (row[0] * columns + row[1] * y + row[2] for row in back)
    x = _sampled(x, at_y, at_x, "mirror")
    if not strength:
        return x
    field = draws.uniform("field", (2, 32, 32), -1, 1)[0]
    dy, dx = (strength * ndimage.gaussian_filter(part, sigma, mode="reflect", truncate=3) for part in field)
    return _sampled(x, y + dy, columns + dx, "reflect")


def pixelate(x: Array, level: int, draws: Draws) -> Array:
    c = [0.95, 0.9, 0.85, 0.75, 0.65][level]
    picture = Image.fromarray(np.rint(255 * x).astype(np.uint8))
    picture = picture.resize((int(32 * c), int(32 * c)), Image.Resampling.BOX)
    return np.asarray(picture.resize((32, 32), Image.Resampling.BOX)) / 255


def jpeg_compression(x: Array, level: int, draws: Draws) -> Array:
    file = BytesIO()
    Image.fromarray(np.rint(255 * x).astype(np.uint8)).save(file, "JPEG", quality=[80, 65, 58, 50, 40][level])
    return np.asarray(Image.open(file)) / 255


ALL: dict[str, Callable[[Array, int, Draws], Array]] = {
    each.__name__: each
    for each in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, fog,
        brightness, contrast, elastic_transform, pixelate, jpeg_compression,
    )
}  # fmt: skip


def stored(x: Array) -> Array:
    """What the program stores; a whole level stays one, whatever floats make of it."""
    return np.uint8(np.clip(255 * x + 1e-3, 0, 255))


def corrupted(image: Array, name: str, severity: int, *, seed: int, sample_id: int) -> Array:
    """uint8 (32, 32, 3) → the same."""
    return stored(ALL[name](image / 255, severity - 1, Draws(seed, name, severity, np.array([sample_id]))))


def plasma(noise: Array, decay: float) -> Array:
    """Diamond and square on a torus of 32; `noise` is float64 (32, 32) from -1 to 1."""
    field, step, strength = np.zeros((32, 32)), 32, 1.0
    while step > 1:
        half = step // 2
        for y in range(half, 32, step):
            for x in range(half, 32, step):
                around = [field[(y + i) % 32, (x + j) % 32] for i in (-half, half) for j in (-half, half)]
                field[y, x] = np.mean(around) + strength * noise[y, x]
        for y in range(0, 32, half):
            for x in range((y + half) % step, 32, step):
                around = [field[(y + i) % 32, (x + j) % 32] for i, j in ((-half, 0), (half, 0), (0, -half), (0, half))]
                field[y, x] = np.mean(around) + strength * noise[y, x]
        step, strength = half, strength / decay
    field -= field.min()
    return field / field.max()


def _clipped_zoom(image: Array, factor: float) -> Array:
    kept = math.ceil(32 / factor)
    top = (32 - kept) // 2
    large = ndimage.zoom(image[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
    trim = (len(large) - 32) // 2
    return large[trim : trim + 32, trim : trim + 32]


def _motion(image: Array, radius: int, sigma: float, degrees: float) -> Array:
    """Half a Gaussian along a line, from each pixel on; the border is repeated."""
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    total = np.zeros_like(image)
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        for y in range(32):
            for x in range(32):
                total[y, x] += weight * image[min(max(y + down, 0), 31), min(max(x + right, 0), 31)]
    return total / sum(weights)


def _sampled(image: Array, rows: Array, columns: Array, mode: str) -> Array:
    planes = [ndimage.map_coordinates(image[..., c], [rows, columns], order=1, mode=mode) for c in range(3)]
    return np.stack(planes, 2)
