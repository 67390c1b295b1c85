"""The network: build it by name, give it weights and a head, read it back from a run.

name    any torchvision classifier, or a CIFAR ResNet (He et al., 2016)
stem    how the first layer looks: ImageNet's, or a 3x3 convolution of stride 1 without pooling
weights what it begins from (pretrained.py); the head is fresh where the classes are others
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import nn

from augft.errors import ConfigError, WeightsError
from augft.model import cifar_resnet
from augft.model.files import META_FILE, WEIGHTS_FILE, ModelMeta, meta_from_bytes, tensors_from_bytes
from augft.model.pretrained import LoadReport, Pretrained, fit, read_weights


@dataclass(frozen=True)
class BuiltModel:
    """A model and what is known of it.

    Args:
        module: float32, on the CPU; (N, 3, H, W) → logits (N, num_classes).
        meta: architecture, stem and classes of this model; mean, std, input size and step are those of the
            weights, None where the weights do not say.
        load_report: which tensors were loaded, which are fresh and why.
    """

    module: nn.Module
    meta: ModelMeta
    load_report: LoadReport


def build_model(
    name: str,
    *,
    num_classes: int,
    weights: str = "none",
    stem: str = "imagenet",
    classes: Sequence[str] | None = None,
    seed: int = 0,
    resolve_run: Callable[[str], Path | None] | None = None,
) -> BuiltModel:
    """Build a model and load its weights.

    Fresh parameters (all of them, or the head) have the initialisation that the architecture's own code
    gives them and are a function of the seed; the global random state is left as it was.

    Args:
        name: a torchvision classifier, or resnet20/32/44/56/110.
        num_classes: width of the head.
        weights: see `read_weights`.
        stem: `imagenet`, or `cifar` for torchvision's ResNets. A CIFAR ResNet has its own stem and takes
            either.
        classes: class names by label; decides with the weights' own whether their head is loaded.
        seed: of the fresh parameters.
        resolve_run: finds runs that are no local folder.

    Raises:
        ConfigError: unknown name, or a stem that the architecture cannot have.
        WeightsError: the weights cannot be read or are of another architecture.
    """
    _check_name(name)
    built = _build(name, num_classes, stem, classes, seed, read_weights(weights, name, resolve_run=resolve_run))
    # It was fitted to the weights that training begins from, and fits no others.
    return replace(built, meta=replace(built.meta, temperature=None))


def load_saved(folder: Path) -> BuiltModel:
    """The model that `write_model` wrote, from a folder.

    Raises:
        WeightsError: a file is missing, cut short, or they do not fit each other.
    """
    source = read_weights(str(folder), "")
    if source is None or source.meta is None:
        raise WeightsError(f"{folder}: no {META_FILE} there; give the directory of a finished run")
    return _rebuild(source, source.meta)


def model_from_bytes(weights: bytes, description: bytes, where: str = WEIGHTS_FILE) -> BuiltModel:
    """The model that `model_to_bytes` gave, from the contents of its two files; errors as `load_saved`."""
    meta = meta_from_bytes(description, where)
    return _rebuild(Pretrained(where, tensors_from_bytes(weights, where), meta), meta)


def find_head(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the layer that gives the logits: the last linear or convolution, in all of
    torchvision's classifiers (a 1x1 convolution in SqueezeNet)."""
    layers = [(k, m) for k, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return layers[-1]


def model_names() -> list[str]:
    """All names that `build_model` takes."""
    return [*cifar_resnet.NAMES, *torchvision.models.list_models(module=torchvision.models)]


def _check_name(name: str) -> None:
    if name not in (names := model_names()):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"model.name: no model {name!r}, the nearest is {near!r}; any torchvision classifier or "
            f"{', '.join(cifar_resnet.NAMES)}"
        )


def _rebuild(source: Pretrained, meta: ModelMeta) -> BuiltModel:
    try:
        _check_name(meta.architecture)
        return _build(meta.architecture, meta.num_classes, meta.stem, meta.classes, 0, source)
    except ConfigError as error:
        raise WeightsError(f"{source.where}: {error}") from None


def _build(
    name: str,
    num_classes: int,
    stem: str,
    classes: Sequence[str] | None,
    seed: int,
    source: Pretrained | None,
) -> BuiltModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _fresh(name, num_classes, stem)
    meta = source.meta if source else None
    if name in cifar_resnet.NAMES:
        stem = "cifar"
    elif meta is not None and meta.stem == "cifar" != stem:
        raise WeightsError(f"{source.where if source else ''}: trained with the cifar stem; set model.stem=cifar")
    if source is None:
        report = LoadReport((), (), tuple(module.state_dict()), f"{name}: fresh weights, seed {seed}")
    else:
        report = fit(
            module,
            find_head(module)[0],
            source,
            architecture=name,
            num_classes=num_classes,
            classes=classes,
            fresh_stem="conv1.weight" if stem == "cifar" and name not in cifar_resnet.NAMES else None,
        )
    known = meta or ModelMeta(name, num_classes)
    if classes is None and not report.replaced:
        classes = known.classes
    names = tuple(classes) if classes is not None else None
    described = replace(known, architecture=name, num_classes=num_classes, stem=stem, classes=names)
    return BuiltModel(module, described, report)


def _fresh(name: str, num_classes: int, stem: str) -> nn.Module:
    if name in cifar_resnet.NAMES:
        return cifar_resnet.CifarResNet(int(name.removeprefix("resnet")), num_classes)
    # Their extra heads help deep nets without good initialisation; fine-tuning does without.
    plain = {"aux_logits": False, "init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **plain)
    if stem == "cifar":
        if not isinstance(module, torchvision.models.ResNet):
            raise ConfigError(f"model.stem: cifar is for torchvision's ResNets, not {name}; set model.stem=imagenet")
        module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
        module.maxpool = nn.Identity()
    elif stem != "imagenet":
        raise ConfigError(f"model.stem: {stem!r} is neither imagenet nor cifar")
    return module
