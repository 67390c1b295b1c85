"""Weights to begin from: read them from wherever they are, and fit them to a model.

Weights files are hostile input: safetensors, or `torch.load` with `weights_only=True`; no pickle is ever run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from augft.errors import WeightsError
from augft.model.files import (
    META_FILE,
    WEIGHTS_FILE,
    ModelMeta,
    meta_from_bytes,
    strip_wrappers,
    tensors_from_bytes,
)

BUNDLED = "bundled:"
_BUNDLED_FOLDER = files("augft") / "weights"

_NESTED_UNDER = ("state_dict", "model_state_dict", "model")
_AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")  # GoogLeNet's and Inception's extra heads, which we never build
_RENAMES = (
    # Files that torchvision still publishes name these modules as it named them years ago.
    ("densenet", re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    ("vit_", re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    ("vit_", re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
    # The widely shared CIFAR ResNets call the head `linear`.
    ("resnet", re.compile(r"^linear\."), "fc."),
)


@dataclass(frozen=True)
class Pretrained:
    """Weights as read, before they meet a model.

    Args:
        where: what to call them in messages.
        tensors: the state dict.
        meta: what is known beside the tensors; None for a bare file.
    """

    where: str
    tensors: dict[str, torch.Tensor]
    meta: ModelMeta | None = None


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of the model: `loaded`, `replaced` (the head, fresh), `left` (fresh for
    other reasons); `summary` says it in one line."""

    loaded: tuple[str, ...]
    replaced: tuple[str, ...]
    left: tuple[str, ...]
    summary: str

    def __str__(self) -> str:
        return self.summary


def read_weights(
    weights: str, architecture: str, *, resolve_run: Callable[[str], Path | None] | None = None
) -> Pretrained | None:
    """Read weights by the name that a job gives them.

    Args:
        weights: `none`, `imagenet`, `bundled:NAME`, a .safetensors, .pth or .pt file, or a folder with
            model.safetensors and model.json. A .json beside a .safetensors file, of the same name, is read
            with it.
        architecture: which model `imagenet` means.
        resolve_run: for what is no local path (a run's name, an s3:// URI): gives the local folder, or None.

    Returns:
        None for `none`.

    Raises:
        WeightsError: missing, cut short, corrupt, a pickle with code, or a failed download.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        return _imagenet(architecture)
    if weights.startswith(BUNDLED):
        return _bundled(weights)
    path = Path(weights).expanduser()
    if not path.exists() and resolve_run is not None:
        path = resolve_run(weights) or path
    if path.is_dir():
        if missing := [name for name in (WEIGHTS_FILE, META_FILE) if not (path / name).is_file()]:
            raise WeightsError(
                f"{path}: no {missing[0]} there; give the directory of a finished run, or a weights file"
            )
        return _safetensors(path / WEIGHTS_FILE, path / META_FILE)
    if not path.is_file():
        raise WeightsError(
            f"model.weights: no file or run {weights}; give imagenet, none, a .safetensors/.pth/.pt file, "
            f"a run directory, or bundled weights ({', '.join(bundled_names()) or 'none here'})"
        )
    if path.suffix == ".safetensors":
        beside = path.with_suffix(".json")
        return _safetensors(path, beside if beside.is_file() else None)
    if path.suffix in {".pth", ".pt"}:
        return Pretrained(str(path), _torch_file(path))
    raise WeightsError(f"{path}: not a kind of weights file; give .safetensors, .pth or .pt")


def bundled_names() -> list[str]:
    """The weights that come with the package, as `model.weights` takes them."""
    if not _BUNDLED_FOLDER.is_dir():
        return []
    names = (entry.name for entry in _BUNDLED_FOLDER.iterdir())
    return sorted(BUNDLED + name.removesuffix(".safetensors") for name in names if name.endswith(".safetensors"))


def fit(
    module: nn.Module,
    head: str,
    source: Pretrained,
    *,
    architecture: str,
    num_classes: int,
    classes: Sequence[str] | None,
    fresh_stem: str | None,
) -> LoadReport:
    """Copy weights into a model in place; nothing is copied unless all of them fit.

    The head is loaded where it has the same number of classes, and the same class names in the same order
    where both sides name them; else the model keeps its fresh one.

    Args:
        module: a freshly built model.
        head: module name of its last layer.
        source: the weights.
        architecture: the model's name.
        num_classes: width of its head.
        classes: its class names, None where unknown.
        fresh_stem: parameter that may have another shape and then stays fresh.

    Raises:
        WeightsError: weights of another architecture, or NaN or infinity in them.
    """
    meta = source.meta
    if meta is not None and meta.architecture != architecture:
        raise WeightsError(
            f"{source.where}: weights of {meta.architecture}, the model is {architecture}; "
            f"set model.name={meta.architecture} or give other weights"
        )
    tensors = {_rename(key, architecture): tensor for key, tensor in source.tensors.items()}
    own = module.state_dict()
    other_head = _other_head(tensors, head, num_classes, classes, meta)
    loaded, replaced, left, wrong = [], [], [], []
    for key, target in own.items():
        given = tensors.pop(key, None)
        if other_head and key.startswith(head + "."):
            replaced.append(key)
        elif given is None:
            if key.endswith("num_batches_tracked"):  # only a momentum of None reads it; older files lack it
                left.append(key)
            else:
                wrong.append(f"{key} is missing")
        elif given.shape == target.shape and given.is_floating_point() == target.is_floating_point():
            loaded.append((key, target, given))
        elif key == fresh_stem:
            left.append(key)
        else:
            wrong.append(f"{key} is {tuple(given.shape)}, the model has {tuple(target.shape)}")
    wrong += [f"{key} is not in the model" for key in tensors if not _AUXILIARY.match(key)]
    if wrong:
        raise WeightsError(
            f"{source.where}: not weights of {architecture}: {len(wrong)} of {len(own)} tensors do not fit, "
            f"first {wrong[0]}; set model.name and model.stem to what they were trained as"
        )
    for key, _, given in loaded:
        if not torch.isfinite(given).all():
            raise WeightsError(f"{source.where}: {key} holds NaN or infinity; give other weights")
    with torch.no_grad():
        for _, target, given in loaded:
            target.copy_(given)
    summary = f"{architecture}: {len(loaded)} of {len(own)} tensors from {source.where}"
    summary += f"; fresh head {head} ({other_head})" if other_head else ""
    summary += f"; left fresh: {', '.join(left[:3])}{', …' if len(left) > 3 else ''}" if left else ""
    return LoadReport(tuple(key for key, _, _ in loaded), tuple(replaced), tuple(left), summary)


def _other_head(
    tensors: Mapping[str, torch.Tensor],
    head: str,
    num_classes: int,
    classes: Sequence[str] | None,
    meta: ModelMeta | None,
) -> str:
    """Why the head of the file is not the model's, or an empty text."""
    weight = tensors.get(head + ".weight")
    if weight is None:
        return "the weights have none"
    if len(weight) != num_classes:
        return f"{len(weight)} → {num_classes} classes"
    theirs = meta.classes if meta else None
    if classes is not None and theirs is not None and tuple(classes) != theirs:
        return "other classes"
    return ""


def _imagenet(architecture: str) -> Pretrained:
    try:
        published = torchvision.models.get_model_weights(architecture).DEFAULT
    except (ValueError, AttributeError):
        raise WeightsError(
            f"model.weights: there are no ImageNet weights of {architecture}; give none, a file or a run"
        ) from None
    try:
        tensors = published.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except Exception:  # urllib, sockets, a wrong digest, a broken cache: all mean that there are no weights
        raise WeightsError(
            f"model.weights: ImageNet weights of {architecture} could not be downloaded; "
            f"fetch {published.url} elsewhere and pass the file: model.weights=FILE.pth"
        ) from None
    preset = published.transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if any(map(_AUXILIARY.match, tensors)):
        # GoogLeNet and Inception saw pictures in [-1, 1]: torchvision converts within the model, we do not.
        mean = std = (0.5, 0.5, 0.5)
    categories = tuple(published.meta["categories"])
    meta = ModelMeta(
        architecture, len(categories), classes=categories, mean=mean, std=std, input_size=preset.crop_size[0]
    )
    return Pretrained("torchvision's ImageNet weights", dict(tensors), meta)


def _bundled(weights: str) -> Pretrained:
    name = weights.removeprefix(BUNDLED)
    if weights not in bundled_names():
        raise WeightsError(f"model.weights: no {weights}; there is {', '.join(bundled_names()) or 'none'}")
    content = (_BUNDLED_FOLDER / f"{name}.safetensors").read_bytes()
    meta = meta_from_bytes((_BUNDLED_FOLDER / f"{name}.json").read_bytes(), weights)
    return Pretrained(weights, tensors_from_bytes(content, weights), meta)


def _safetensors(path: Path, meta_path: Path | None) -> Pretrained:
    try:
        content = path.read_bytes()
        description = meta_path.read_bytes() if meta_path else None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; give a file that can be read") from None
    meta = meta_from_bytes(description, str(meta_path)) if description is not None else None
    return Pretrained(str(path), strip_wrappers(tensors_from_bytes(content, str(path))), meta)


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol, of no use to who chose the file
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what broken or hostile bytes make of a parser is anything
        raise WeightsError(
            f"{path}: cut short, corrupt, or holds more than tensors; give a plain state dict, or safetensors"
        ) from None
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    sound = isinstance(content, Mapping) and content
    if not sound or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        raise WeightsError(f"{path}: holds no state dict of tensors; save model.state_dict()")
    return strip_wrappers(content)


def _rename(key: str, architecture: str) -> str:
    for family, pattern, replacement in _RENAMES:
        if architecture.startswith(family):
            key = pattern.sub(replacement, key)
    return key
