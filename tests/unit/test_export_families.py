"""`augft export` of every family of networks, and of real ones on 1,000 real pictures.

AUGFT_EXPORT=all takes a member of each family, for minutes; without it, three that are quick. AUGFT_EXPORT_PICTURES
says how many pictures they are shown.
"""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augft.export.formats import SUFFIXES
from augft.export.write import export
from augft.model import ModelMeta, build_model, write_model
from augft.model.files import model_to_bytes, tensors_from_bytes
from tests.exported_run import CALLS, Images, card_call, expected, in_batches, make_model_run, most_apart, photo_parts
from tests.report_data import make_run

NUM_PICTURES = int(os.environ.get("AUGFT_EXPORT_PICTURES", "12"))
QUICK = {"mobilenet_v3_small": 32, "squeezenet1_1": 32, "regnet_y_400mf": 32}
"""Of each: the size that it sees."""
OTHERS = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "regnet_x_400mf": 64,
    "resnet18": 64,
    "resnet20": 32,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x1_0": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "vit_b_32": 224,
    "wide_resnet50_2": 64,
}
FAMILIES = QUICK | (OTHERS if os.environ.get("AUGFT_EXPORT") == "all" else {})


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_family_is_exported_and_agrees(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'augft[onnx]'")
    run = make_model_run(tmp_path / "run", digits, architecture, input_size=FAMILIES[architecture])
    images = photo_parts(NUM_PICTURES, FAMILIES[architecture])
    right = expected(run, images)
    said = []
    for format, suffix in SUFFIXES.items():
        began_at = time.monotonic()
        path, _, card = export(str(run), format, tmp_path / "out" / f"model{suffix}")
        took_s = time.monotonic() - began_at
        monkeypatch.chdir(path.parent)
        call = CALLS[format](path) if format in CALLS else card_call(card.read_text(encoding="utf-8"), "load_file")
        apart = most_apart(in_batches(call, images), right)
        said.append(f"{format} {apart:.1e} in {took_s:.0f} s, {path.stat().st_size / 2**20:.1f} MiB")
        assert apart <= 1e-4, said
    print(f"{architecture} at {FAMILIES[architecture]} px, {NUM_PICTURES} pictures: {'; '.join(said)}")


def test_weights_come_back_from_safetensors_into_mnasnet() -> None:
    """As a run loads them at its end: by `load_state_dict`, of which MNASNet wants more than names and numbers."""
    module = build_model("mnasnet0_5", num_classes=10).module
    content, _ = model_to_bytes(module, ModelMeta("mnasnet0_5", 10))
    again = build_model("mnasnet0_5", num_classes=10, seed=1).module
    again.load_state_dict(tensors_from_bytes(content, "the test's"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in module.state_dict().items())


# ---- what somebody trained, on what somebody photographed ----------------------------------------------------


@pytest.fixture(scope="module")
def cifar(real_data: Path) -> Images:
    """uint8 (1000, 32, 32, 3): every tenth test picture of CIFAR-10, a hundred of each class."""
    found = []
    with tarfile.open(real_data / "cifar10-jpeg.tar.gz") as archive:
        for member in archive:
            if member.name.startswith("test/") and member.name.endswith("0.jpg"):
                content = archive.extractfile(member)
                assert content is not None
                found.append(np.asarray(Image.open(content).convert("RGB")))
    assert len(found) == 1000
    return np.stack(found)


def trained(folder: Path, packed: Path, weights: str, architecture: str, num_classes: int, input_size: int) -> Path:
    make_run(folder, packed)
    built = build_model(architecture, num_classes=num_classes, weights=weights)
    assert not built.load_report.replaced
    meta = ModelMeta(architecture, num_classes, built.meta.stem, None, built.meta.mean, built.meta.std, input_size, 130)
    write_model(folder, built.module, meta)
    return folder


@pytest.mark.real_data
@pytest.mark.parametrize("architecture", ["resnet20", "resnet18"])
def test_a_trained_model_agrees_on_a_thousand_real_pictures(
    tmp_path: Path, digits: Path, real_data: Path, cifar: Images, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """To 1e-4 in logits and probabilities, absolutely; the weights by plain torchvision, as the card says."""
    pytest.importorskip("onnxscript", reason="pip install 'augft[onnx]'")
    if architecture == "resnet20":
        run = trained(tmp_path / "run", digits, "bundled:resnet20-cifar10", architecture, 10, 32)
    else:
        weights = str(real_data / "resnet18-tiny-imagenet.pth")
        run = trained(tmp_path / "run", digits, weights, architecture, 200, 64)
    right = expected(run, cifar)
    assert len(set(right[0].argmax(1).tolist())) >= 10
    for format, suffix in SUFFIXES.items():
        path, _, card = export(str(run), format, tmp_path / "out" / f"model{suffix}")
        monkeypatch.chdir(path.parent)
        call = CALLS[format](path) if format in CALLS else card_call(card.read_text(encoding="utf-8"), "load_file")
        found = in_batches(call, cifar)
        apart = max(float(np.abs(np.asarray(one) - other).max()) for one, other in zip(found, right, strict=True))
        print(f"{architecture}, {format}: {apart:.1e} at most on {len(cifar)} pictures")
        assert apart <= 1e-4
        assert np.array_equal(found[0].argmax(1), right[0].argmax(1))
