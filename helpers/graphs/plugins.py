"""NVIDIA's BERT plugins of libnvinfer_plugin: https://github.com/NVIDIA/TensorRT/tree/release/8.6/plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helpers import trt as tensorrt_
from helpers.errors import InputError


def add(network: Any, name: str, version: str, fields: Mapping[str, Any], inputs: Sequence[Any], layer_name: str) -> Any:
    """Adds the plugin `name`, `version` to a network; returns its layer.

    Args:
        fields: whole numbers become int32 fields, everything else float32 arrays.

    Raises:
        InputError: the plugin library lacks the plugin, or refuses its fields.
    """
    trt = tensorrt_.load()
    tensorrt_.logger()  # registers the library
    creator = trt.get_plugin_registry().get_plugin_creator(name, version, "")
    if creator is None:
        raise InputError(f"libnvinfer_plugin of TensorRT {trt.__version__} lacks the plugin {name} version {version}")
    kinds = {True: (np.int32, trt.PluginFieldType.INT32), False: (np.float32, trt.PluginFieldType.FLOAT32)}
    arrays = {key: np.ascontiguousarray(value, kinds[isinstance(value, int)][0]).reshape(-1) for key, value in fields.items()}
    collection = trt.PluginFieldCollection(
        [trt.PluginField(key, array, kinds[isinstance(fields[key], int)][1]) for key, array in arrays.items()]
    )
    plugin = creator.create_plugin(layer_name, collection)
    if plugin is None:
        raise InputError(f"plugin {name} version {version} cannot be made for {layer_name}: {tensorrt_.complaint()}")
    layer = network.add_plugin_v2(list(inputs), plugin)
    layer.name = layer_name
    return layer
