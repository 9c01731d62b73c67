"""Checkpoints as the reference saves them: whole modules, under its own class names.

The classes exist only while a checkpoint is made, so whoever reads it finds none of them.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cosmicai.model.config import ModelConfig
    from numpy.typing import NDArray

CLASS_NAMES = {
    "AstroMAE": "blocks.model_vit_inception.ViT_Astro",
    "InceptionModel": "blocks.photoz.Input_Mix_Model",
    "InceptionBlock": "blocks.photoz.InceptionBlock",
    "ConvBlock": "blocks.photoz.ConvBlock",
    "Block": "NormalCell.NormalCell",
    "Attention": "NormalCell.Attention",
    "Mlp": "NormalCell.Mlp",
    "PatchEmbed": "timm.models.layers.patch_embed.PatchEmbed",
}


@contextmanager
def reference_classes() -> Iterator[dict[str, type]]:
    """Empty ``nn.Module`` classes importable under the reference's names."""
    from torch import nn

    classes: dict[str, type] = {}
    modules: dict[str, ModuleType] = {}
    for ours, full_name in CLASS_NAMES.items():
        module_name, _, class_name = full_name.rpartition(".")
        parts = module_name.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            modules.setdefault(name, ModuleType(name))
        classes[ours] = type(class_name, (nn.Module,), {"__module__": module_name})
        setattr(modules[module_name], class_name, classes[ours])
    saved = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def reference_module(
    config: ModelConfig, state: dict[str, NDArray[Any]], classes: dict[str, type]
) -> Any:
    """A tree of modules with the reference's classes, attributes and tensors."""
    import torch
    from cosmicai.model.astromae import AstroMAE
    from torch import nn

    model = AstroMAE(config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    for module in list(model.modules()):
        name = type(module).__name__
        if name == "Attention":
            module.num_heads = module.heads
            module.scale = (config.width // config.heads) ** -0.5
            del module.heads
        elif name == "Mlp":
            module.act = nn.GELU()
        elif name == "Block":
            module.class_token = True
            module.drop_path = nn.Identity()
        elif name == "InceptionModel":
            module.Inception_only, module.magnitude, module.uk_paper = False, True, False
        elif name == "AstroMAE":
            del module.config
        if name in classes:
            module.__class__ = classes[name]
    return model.eval()


def save_reference_checkpoint(
    path: Path, config: ModelConfig, state: dict[str, NDArray[Any]], change: Any = None
) -> Path:
    """Save a DataParallel of the model; ``change(model)`` may spoil it before."""
    import torch

    with reference_classes() as classes:
        model = reference_module(config, state, classes)
        if change is not None:
            change(model)
        torch.save(torch.nn.DataParallel(model), path)
    return path
