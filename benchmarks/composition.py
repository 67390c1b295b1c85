"""What composing changes: ops as one map and one colour matrix, against the same ops one after the other.

The picture is a formula, so what a transform should give is known at every point, between pixels too. Both sides get
the same drawn values; torchvision applies them op by op, on uint8, with bilinear interpolation.

    python benchmarks/composition.py

It prints the tables of docs/augmentation.md, section "What composing changes"; the same on any machine, but for what
versions of torchvision round differently.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from augft.augment.apply import draw_parameters, inverse_maps, render
from augft.augment.drawn import Drawn
from augft.augment.ops import Size
from augft.augment.policy import Policy

NUM = 500
SEED = 0

Array = npt.NDArray[np.float64]
Pictures = npt.NDArray[np.uint8]

GEOMETRY: dict[str, list[object]] = {
    "`rotate` alone": ["rotate"],
    "`rotate`, `shear`": ["rotate", "shear"],
    "`rotate`, `shear`, `scale`": ["rotate", "shear", "scale"],
    "`rotate`, `shear`, `scale`, `rotate`": ["rotate", "shear", "scale", "rotate"],
    "`translate`, `rotate`, `translate`": [
        {"translate": {"x": 0.3, "y": 0.3}},
        "rotate",
        {"translate": {"x": 0.3, "y": 0.3}},
    ],
}
COLOUR: dict[str, list[object]] = {
    "`brightness`": ["brightness"],
    "`brightness`, `contrast`": ["brightness", "contrast"],
    "`brightness`, `contrast`, `saturation`": ["brightness", "contrast", "saturation"],
    "the three, factors 0.2 to 1.8": [
        {name: {"factor": [0.2, 1.8]}} for name in ("brightness", "contrast", "saturation")
    ],
}


# -- the picture -----------------------------------------------------------------------------------


def formula(x: Array, y: Array, phase: Array) -> Array:
    """Waves of 6 to 12 pixels on a slope, three channels: (N, H, W) → (N, H, W, 3), 0 to 255."""
    waves = []
    for channel in range(3):
        turn = phase[:, channel, None, None]
        along = np.cos(turn) * x + np.sin(turn) * y
        across = np.cos(turn) * y - np.sin(turn) * x
        waves.append(127.5 + 70 * np.sin(2 * np.pi * along / 6) + 50 * np.sin(2 * np.pi * across / 12 + turn))
    return np.stack(waves, -1)


def pictures(size: int) -> tuple[Pictures, Array]:
    """uint8 (N, size, size, 3), and the angles that made each."""
    phase = np.random.default_rng(SEED).uniform(0, 2 * np.pi, (NUM, 3))
    y, x = np.mgrid[:size, :size].astype(float)
    exact = formula(np.broadcast_to(x, (NUM, size, size)), np.broadcast_to(y, (NUM, size, size)), phase)
    return np.rint(exact).astype(np.uint8), phase


# -- one after the other ---------------------------------------------------------------------------


def one_by_one(images: Pictures, drawn: Drawn) -> Pictures:
    """The same values through torchvision, op by op."""
    out = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    size = images.shape[1]
    for one in drawn.ops:
        for row, values in zip(one.rows, one.values.T, strict=True):
            settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
            if one.op.name == "rotate":
                settings["angle"] = -float(values[0])  # torchvision's affine turns clockwise
            elif one.op.name == "shear":
                settings["shear"] = [float(value) for value in values]
            elif one.op.name == "scale":
                settings["scale"] = float(values[0])
            elif one.op.name == "translate":
                settings["translate"] = [int(np.rint(value * size)) for value in values]
            else:
                adjust = getattr(functional, f"adjust_{one.op.name}")
                out[row] = adjust(out[row], float(values[0]))
                continue
            out[row] = functional.affine(out[row], interpolation=InterpolationMode.BILINEAR, **settings)
    return out.permute(0, 2, 3, 1).numpy()


# -- tables ----------------------------------------------------------------------------------------


def geometry(size: int) -> None:
    """Mean absolute error inside, and what is lost at borders."""
    images, phase = pictures(size)
    print(f"\nGeometry, {NUM} pictures of {size}×{size}: mean absolute error in levels; pixels lost\n")
    print("| ops | composed | one by one | lost composed | lost one by one |\n|---|---:|---:|---:|---:|")
    for name, ops in GEOMETRY.items():
        policy = Policy.from_config(ops)
        drawn = draw_parameters(policy, seed=SEED, epoch=0, sample_ids=np.arange(NUM))
        maps = inverse_maps(drawn.ops, NUM, Size(size, size))
        assert maps is not None
        y, x = np.mgrid[:size, :size].astype(float)
        a, b, c, d, e, f = maps[:, :, None, None]
        from_x, from_y = a * x + b * y + c, d * x + e * y + f
        exact = formula(from_x, from_y, phase)
        results = [render(images, policy, drawn), one_by_one(images, drawn)]
        # A white picture through the same ops: where it is black, the fill has come in.
        white = np.full_like(images, 255)
        covers = [render(white, policy, drawn)[..., 0], one_by_one(white, drawn)[..., 0]]
        inside = (np.minimum(from_x, from_y) >= 0) & (np.maximum(from_x, from_y) <= size - 1)
        whole = inside & (covers[0] == 255) & (covers[1] == 255)
        errors = [np.abs(np.clip(exact[whole], 0, 255) - result[whole]).mean() for result in results]
        lost = [(inside & (cover < 128)).sum() / inside.sum() for cover in covers]
        print(f"| {name} | {errors[0]:.1f} | {errors[1]:.1f} | {lost[0]:.1%} | {lost[1]:.1%} |")


def colour(size: int) -> None:
    """How far each is from the formula that clips once, at the end."""
    images, _ = pictures(size)
    print("\nColour, the same pictures: mean absolute error in levels; share of values off by more than 2\n")
    print("| ops | composed | one by one | off composed | off one by one |\n|---|---:|---:|---:|---:|")
    grey = np.array([0.299, 0.587, 0.114])
    for name, ops in COLOUR.items():
        policy = Policy.from_config(ops)
        drawn = draw_parameters(policy, seed=SEED, epoch=0, sample_ids=np.arange(NUM))
        exact = images.astype(float)
        for one in drawn.ops:
            factor = one.values[0][:, None, None, None]
            about = {
                "brightness": np.zeros((1, 1, 1, 1)),
                "contrast": (exact @ grey).mean((1, 2))[:, None, None, None],
                "saturation": (exact @ grey)[..., None],
            }[one.op.name]
            exact = about + factor * (exact - about)
        exact = np.clip(exact, 0, 255)
        errors = [np.abs(exact - result) for result in (render(images, policy, drawn), one_by_one(images, drawn))]
        means, off = [error.mean() for error in errors], [(error > 2).mean() for error in errors]
        print(f"| {name} | {means[0]:.2f} | {means[1]:.2f} | {off[0]:.1%} | {off[1]:.1%} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    geometry(32)
    colour(32)
