"""A run with a model of any architecture, made in a moment; and how others call what was exported of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_sample_image

from augft.mlflow_model import PictureModel
from augft.model import ModelMeta, build_model, find_head, write_model
from augft.preprocess import Preprocess
from tests.report_data import make_run

Images = npt.NDArray[np.uint8]

CLASSES = (*(f"class {i}" for i in range(9)), "a|b `c` <d>")
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.0, 0.3)


def photo_parts(num: int, size: int) -> Images:
    """uint8 (num, size, size, 3): squares of two photographs, cut at random places."""
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    parts = []
    for i in range(num):
        whole = photographs[i % 2]
        top, left = (int(rng.integers(0, side - size)) for side in whole.shape[:2])
        parts.append(whole[top : top + size, left : left + size])
    return np.stack(parts)


def make_model_run(
    folder: Path, packed: Path, architecture: str, *, stem: str = "imagenet", input_size: int = 24
) -> Path:
    """A run with weights that nobody trained, but whose answers differ from picture to picture."""
    make_run(folder, packed)
    module = build_model(architecture, num_classes=10, stem=stem, seed=3).module
    x = Preprocess(MEAN, STD, input_size, torch.device("cpu"))(photo_parts(32 if input_size <= 64 else 8, input_size))
    head = find_head(module)[1]
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        torch.nn.init.normal_(head.weight, std=0.05)  # of some architectures it begins as zeros
        for norm in norms:
            norm.momentum = None  # an average of all it sees
        if norms:  # only what batch normalisation remembers is learned
            module(x)
        for norm in norms:  # or a channel that hardly varies would enlarge the last bit
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))
        head.weight.div_(module.eval()(x).std(0).mean())
    meta = ModelMeta(architecture, 10, stem, CLASSES, MEAN, STD, input_size, 130, temperature=2.5)
    write_model(folder, module, meta)
    return folder


def expected(run: Path, images: Images) -> tuple[Any, Any]:
    """Logits and probabilities by the code that training and MLflow use, which the export shares nothing with."""
    model = PictureModel(run, torch.device("cpu"))
    with torch.inference_mode():
        batches = [images[i : i + 50] for i in range(0, len(images), 50)]
        logits = torch.cat([model._module(model._preprocess(batch)) for batch in batches])
    return logits.numpy(), model.predict(images)


def most_apart(found: Any, right: Any) -> float:
    """The largest difference of two answers: of probabilities, and of logits as a share of the largest (at least 1)."""
    assert np.ptp(right[0], axis=0).max() > 0.05, "all pictures have the same answer: the test would see nothing"
    pairs = zip(found, right, strict=True)
    return max(float(np.abs(np.asarray(one) - other).max() / max(1.0, np.abs(other).max())) for one, other in pairs)


def assert_agree(found: Any, right: Any) -> None:
    """To 1e-4."""
    assert most_apart(found, right) <= 1e-4


def onnx_call(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'augft[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'augft[onnx]'")
    session = onnxruntime.InferenceSession(path)
    return lambda pictures: session.run(None, {"images": pictures})


def program_call(path: Path) -> Any:
    module = torch.export.load(path).module()
    return lambda pictures: [output.detach().numpy() for output in module(torch.from_numpy(pictures))]


CALLS = {"onnx": onnx_call, "torch": program_call}


def in_batches(call: Any, images: Images, size: int = 50) -> list[Any]:
    """Both answers to all pictures."""
    rows = [call(images[i : i + size]) for i in range(0, len(images), size)]
    return [np.concatenate(part) for part in zip(*rows, strict=True)]


def card_lines(card: str, word: str) -> str:
    """The card's lines of Python that hold a word."""
    [found] = [code for code in re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL) if word in code]
    return found


def card_call(card: str, word: str) -> Any:
    """What those lines do, run in the folder where they look for the file."""
    code = card_lines(card, word)

    def call(pictures: Images) -> Any:
        names: dict[str, Any] = {"pictures": pictures}
        with torch.inference_mode():
            exec(code, names)
        return names["logits"], names["probabilities"]

    return call
