"""A LoRA adapter as a GGUF file, which llama.cpp lays over the GGUF of its base model."""

import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from codelm.config.model import ModelConfig
from codelm.export.bundle import BASE_KEY
from codelm.export.gguf import FloatArray, in_row_order, tensor_name

PEFT_NAME = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")


def write_adapter(
    path: Path, model: ModelConfig, tensors: Mapping[str, FloatArray], alpha: float, name: str, base_sha256: str | None
) -> None:
    """Writes both factors of each update in float32: they are small, and float16 would round what was learned.

    model: the shape of the base. tensors: PEFT name → array, `….lora_A.weight` (r, inputs) and `….lora_B.weight` (outputs, r).
    llama.cpp multiplies their product by alpha / r, where r is the number of rows of lora_A. name: of the base, for people.
    base_sha256: of its weights, if that is known, so that a server can refuse another base. Raises ValueError if a tensor is no
    factor of a layer that the base has.
    """
    writer = gguf.GGUFWriter(str(path), model.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(f"codelm-{name} adapter")
    if base_sha256:
        writer.add_string(BASE_KEY, base_sha256)
    for peft_name, tensor in sorted(tensors.items()):
        match = PEFT_NAME.fullmatch(peft_name)
        if match is None:
            raise ValueError(f"{peft_name} is no factor of a LoRA update")
        layer, factor = f"{match['layer']}.weight", match["factor"]
        # the rows of lora_B are the layer's outputs, those of lora_A the r inner ones
        rows = in_row_order(model, layer, tensor) if factor == "B" else tensor
        writer.add_tensor(f"{tensor_name(model, layer)}.lora_{factor.lower()}", np.ascontiguousarray(rows, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
