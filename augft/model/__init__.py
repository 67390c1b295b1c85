"""The network: by name, with weights from anywhere, frozen in part, written and read back.

cifar_resnet.py   the ResNets of He et al. for CIFAR
files.py          model.safetensors and model.json
pretrained.py     read weights, and fit them to a model
build.py          a model by name, with its weights
stages.py         parts from input to head: freezing, layer-wise rates
"""

from augft.model.build import BuiltModel, build_model, find_head, load_saved, model_from_bytes, model_names
from augft.model.files import ModelMeta, model_to_bytes, write_model
from augft.model.pretrained import LoadReport, bundled_names

__all__ = [
    "BuiltModel",
    "LoadReport",
    "ModelMeta",
    "build_model",
    "bundled_names",
    "find_head",
    "load_saved",
    "model_from_bytes",
    "model_names",
    "model_to_bytes",
    "write_model",
]
