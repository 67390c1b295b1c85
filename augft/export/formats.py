"""The formats of an exported model. What others will run is run here first, and held against the model itself."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from augft.errors import ConfigError, RunError, WeightsError
from augft.export.network import PictureNetwork
from augft.saved import SavedModel

MOST_DIFFERENCE = 1e-4
"""Between what the exported program says and what the model says: in probabilities, and in logits as a share of the
largest (of 1 at least)."""
_TIMES_AS_FAR = 10
INPUT, OUTPUTS = "images", ("logits", "probabilities")
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}

_AXES = ("batch", "height", "width")
_MOST_PROTOBUF_BYTES = 2**31 - 2**24
Answers = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Call = Callable[[npt.NDArray[np.uint8]], Answers]


def exported(saved: SavedModel, format: str, extra: dict[str, str]) -> bytes:
    """The content of the exported file.

    Args:
        saved: the model of a run.
        format: `safetensors`, `onnx` or `torch`.
        extra: kept inside the file where the format has a place for it: strings by name.

    Raises:
        ConfigError: the format is unknown, or needs a package that is not installed.
        WeightsError: the model is too large for the format.
        RunError: PyTorch cannot export this architecture, or what came out differs from the model.
    """
    if format not in SUFFIXES:
        raise ConfigError(f"--format {format}: give one of {', '.join(SUFFIXES)}")
    if format == "safetensors":
        # Others read these as the architecture's own float32 weights, as training left them.
        weights: bytes = safetensors.torch.save(safetensors.torch.load(saved.weights), {"format": "pt", **extra})
        return weights
    network = PictureNetwork(saved.module(), saved.mean, saved.std, saved.input_size, saved.temperature).eval()
    if format == "onnx":
        _check_onnx_is_there(saved)
    with _quiet(), torch.no_grad():
        program = _traced(network, saved)
        content, call = _as_onnx(program, extra) if format == "onnx" else _as_program(program, extra)
        check(call, network, saved, format)
    return content


def check(call: Call, network: PictureNetwork, saved: SavedModel, format: str) -> None:
    """Hold a program against the model, with batches and pictures of several sizes.

    A network may magnify how float32 rounds: then the model is itself far from what it says in float64, and the program
    may be `_TIMES_AS_FAR`.

    Raises:
        RunError: they differ by more than `MOST_DIFFERENCE`.
    """
    rng = np.random.default_rng(0)
    size = saved.picture_size
    for shape in ((1, size, size, 3), (7, size, size, 3), (2, size + 5, 2 * size, 3), (3, max(1, size // 2), size, 3)):
        images = rng.integers(0, 256, shape, np.uint8)
        expected = _answers(network, images)
        for number, (name, found) in enumerate(zip(OUTPUTS, call(images), strict=True)):
            differs = _difference(found, expected[number])
            if differs <= MOST_DIFFERENCE:
                continue
            exact = _answers(copy.deepcopy(network).double(), images)[number]
            if not _difference(found, exact) <= _TIMES_AS_FAR * _difference(expected[number], exact):  # NaN is refused
                raise RunError(
                    f"{saved.where}: as {format}, {name} differ by {differs:.1e}, more than {MOST_DIFFERENCE:g}, from "
                    "the model's own; nothing was written. Export it in another format, or with another PyTorch"
                )


def _answers(network: PictureNetwork, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.floating[Any]]]:
    return [output.numpy() for output in network(torch.from_numpy(images))]


def _difference(found: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.abs(found - right).max() / max(1.0, float(np.abs(right).max())))


def _traced(network: PictureNetwork, saved: SavedModel) -> Any:
    size = saved.picture_size
    # Three pictures, higher than wide: equal or single lengths would be taken for a law.
    example = torch.zeros((3, size + 3, size + 2, 3), dtype=torch.uint8)
    dims = {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(_AXES)}
    try:
        return torch.export.export(network, (example,), dynamic_shapes={INPUT: dims})
    except Exception as error:  # PyTorch has no one kind of error for this
        raise _cannot(saved.meta.architecture, error) from error


def _as_program(program: Any, extra: dict[str, str]) -> tuple[bytes, Call]:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=dict(extra))
    module = torch.export.load(io.BytesIO(content.getvalue())).module()

    def call(images: npt.NDArray[np.uint8]) -> Answers:
        logits, probabilities = module(torch.from_numpy(images))
        return logits.numpy(), probabilities.numpy()

    return content.getvalue(), call


def _as_onnx(program: Any, extra: dict[str, str]) -> tuple[bytes, Call]:
    import onnxruntime

    try:
        onnx_program = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: dict(enumerate(_AXES))},  # gives the axes their names
            dynamo=True,
            verbose=False,
        )
        assert onnx_program is not None
        onnx_program.model.metadata_props.update(extra)
        content: bytes = onnx_program.model_proto.SerializeToString()
    except Exception as error:
        raise _cannot("the model", error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def call(images: npt.NDArray[np.uint8]) -> Answers:
        logits, probabilities = session.run(list(OUTPUTS), {INPUT: images})
        return logits, probabilities

    return content, call


def _check_onnx_is_there(saved: SavedModel) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'augft[onnx]'") from None
    if len(saved.weights) > _MOST_PROTOBUF_BYTES:
        raise WeightsError(
            f"{saved.where}: {len(saved.weights) / 2**30:.1f} GiB of weights, and an ONNX file holds less than 2; "
            "give --format torch or safetensors"
        )


def _cannot(what: str, error: Exception) -> RunError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return RunError(f"PyTorch cannot export {what} ({reason}); give --format safetensors")


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk about themselves, at length."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def metadata(saved: SavedModel, digest: str) -> dict[str, str]:
    """What goes along inside a file: the classes and how the model came to be."""
    return {
        "classes": json.dumps(saved.classes, ensure_ascii=False),
        "architecture": saved.meta.architecture,
        "picture_size": str(saved.picture_size),
        "input_size": str(saved.input_size),
        "data_digest": digest,
        "model.json": saved.description.decode(),
    }
