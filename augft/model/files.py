"""The model as files: `model.safetensors` with the weights, `model.json` with what is needed to use them.

The tensors carry the names of the architecture's own modules, so plain torchvision loads the weights of a
torchvision model (with `stem: imagenet`) by `load_state_dict(safetensors.torch.load_file(path))`. Remote
storage writes bytes, so each direction works on bytes; the functions on folders stand on those.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from augft.errors import StorageError, WeightsError

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
META_FILE = "model.json"

_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before each name


@dataclass(frozen=True)
class ModelMeta:
    """What model.json holds beside its format version.

    Args:
        architecture: a name that `build_model` takes.
        num_classes: width of the head.
        stem: `imagenet` or `cifar`.
        classes: class names by label, None where unknown.
        mean, std: of each channel, RGB, for pictures in [0, 1]; None where unknown.
        input_size: height and width in pixels that the model was trained at; None where unknown.
        step: global step of these weights; None where unknown.
        temperature: what logits are divided by before they become probabilities (`augft evaluate --temperature`); None:
            they are taken as they are.
    """

    architecture: str
    num_classes: int
    stem: str = "imagenet"
    classes: tuple[str, ...] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input_size: int | None = None
    step: int | None = None
    temperature: float | None = None


def meta_to_bytes(meta: ModelMeta) -> bytes:
    """model.json as UTF-8."""
    content = {"format_version": FORMAT_VERSION, **asdict(meta)}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def meta_from_bytes(content: bytes, where: str) -> ModelMeta:
    """Read model.json.

    Raises:
        WeightsError: not JSON, not of this format, or of a newer version.
    """
    try:
        fields: dict[str, Any] = json.loads(content)
        version = fields.pop("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise WeightsError(f"{where}: format version {version!r}, this augft reads {FORMAT_VERSION}; update augft")
        known: dict[str, Any] = {key: fields[key] for key in ModelMeta.__dataclass_fields__ if key in fields}
        known |= {key: tuple(value) for key, value in known.items() if isinstance(value, list)}
        meta = ModelMeta(**known)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise WeightsError(f"{where}: does not describe a model; give the folder that a run wrote") from None
    _check(meta, where)
    return meta


def model_to_bytes(
    module: nn.Module | Mapping[str, torch.Tensor], meta: ModelMeta, *, half: bool = False
) -> tuple[bytes, bytes]:
    """A model as the contents of model.safetensors and model.json.

    Args:
        module: the model, wrapped by DDP or torch.compile or not; or its state dict.
        meta: what model.json says.
        half: store floats as float16, half the bytes; reading gives float32 again.
    """
    tensors = strip_wrappers(module.state_dict() if isinstance(module, nn.Module) else module)
    stored = {}
    for key, tensor in tensors.items():
        if half and tensor.is_floating_point():
            tensor = tensor.half()
        stored[key] = tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
    return safetensors.torch.save(stored, {"format": "pt"}), meta_to_bytes(meta)


def tensors_from_bytes(content: bytes, where: str) -> dict[str, torch.Tensor]:
    """Read model.safetensors.

    Raises:
        WeightsError: the content is cut short or not safetensors.
    """
    try:
        tensors = OrderedDict(safetensors.torch.load(content))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{where}: cut short or no safetensors file ({_first_line(error)}); copy it again") from None
    # PyTorch keeps it beside a state dict, safetensors does not: torchvision's MNASNet loads no weights without it.
    tensors._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    return tensors


def write_model(folder: Path, module: nn.Module | Mapping[str, torch.Tensor], meta: ModelMeta) -> None:
    """Write model.safetensors and model.json; each appears whole or not at all.

    Raises:
        StorageError: disk full, no permission.
    """
    weights, description = model_to_bytes(module, meta)
    for name, content in ((WEIGHTS_FILE, weights), (META_FILE, description)):
        partial = folder / f".{name}.partial"
        try:
            partial.write_bytes(content)
            os.replace(partial, folder / name)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(
                f"{folder / name}: {error.strerror or error}; free space or choose another place"
            ) from None


def strip_wrappers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with the names of the bare model."""
    stripped = dict(tensors)
    while prefix := next((w for w in _WRAPPERS if stripped and all(k.startswith(w) for k in stripped)), None):
        stripped = {key.removeprefix(prefix): tensor for key, tensor in stripped.items()}
    return stripped


def _check(meta: ModelMeta, where: str) -> None:
    sound = isinstance(meta.architecture, str) and isinstance(meta.num_classes, int) and meta.num_classes > 0
    sound &= meta.classes is None or len(meta.classes) == meta.num_classes
    for numbers in (meta.mean, meta.std):
        sound &= numbers is None or (len(numbers) == 3 and all(isinstance(x, (int, float)) for x in numbers))
    sound &= meta.temperature is None or (
        isinstance(meta.temperature, (int, float)) and 0 < meta.temperature < math.inf
    )
    if not sound:
        raise WeightsError(
            f"{where}: its classes, mean, std or temperature do not fit the model it names; write it again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
