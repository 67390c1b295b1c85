"""A finished run of digits as `augft evaluate` finds it, made in a moment: the head is fitted, nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from augft.config import load_job_text
from augft.data.packed import open_packed
from augft.model import build_model, write_model
from augft.preprocess import Preprocess

JOB = """
name: small
data: {{source: {source}, image_size: null, val_fraction: {val_fraction}}}
model: {{name: resnet20, weights: none}}
augment: {{policy: digits}}
"""


def make_run(folder: Path, packed: Path, *, seed: int = 0, num_fitted: int = 200, val_fraction: float = 0.1) -> str:
    """Random features, and a head that is the least squares solution on a few training pictures."""
    dataset = open_packed(packed)
    manifest = dataset.manifest
    built = build_model("resnet20", num_classes=10, classes=manifest.classes, seed=seed)
    preprocess = Preprocess(manifest.mean, manifest.std, None, torch.device("cpu"))
    images, labels = dataset.split("train").gather(np.arange(0, 1400, 1400 // num_fitted))
    module = built.module
    head, module.fc = module.fc, torch.nn.Identity()
    with torch.inference_mode():
        module.train()(preprocess(images))  # statistics for batch normalisation
        features = module.eval()(preprocess(images)).double()
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    wanted = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 10).double()
    ridge = 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted).float().T
    head.weight.data, head.bias.data = 12 * solved[:, :-1].contiguous(), 12 * solved[:, -1].contiguous()
    module.fc = head
    meta = built.meta.__class__(
        "resnet20", 10, "cifar", manifest.classes, manifest.mean, manifest.std, manifest.image_shape[0], step=7
    )
    folder.mkdir(parents=True)
    write_model(folder, module, meta)
    text = JOB.format(source=packed, val_fraction=val_fraction)
    (folder / "config.yaml").write_text(load_job_text(text, "the test's job", [f"seed={seed}"]).to_yaml())
    data = {"path": str(packed), "digest": manifest.digest, "classes": manifest.classes}
    (folder / "environment.json").write_text(json.dumps({"data": data}))
    return str(folder)
