"""CLIP image encoders for re-identification: class token and projection, fine-tuned with a cluster memory (PCL-CLIP)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_README = "README of an unofficial unsupervised implementation, row of the paper"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Prototypical Contrastive Learning-based CLIP Fine-tuning for Object Re-identification",
        api=1,
        paper="Li, Gong: Prototypical Contrastive Learning-based CLIP Fine-tuning for Object Re-identification, arXiv 2023",
        url="https://arxiv.org/abs/2310.17218",
        licence="Apache-2.0",
        deviations=(
            "Images are normalised with CLIP's mean and deviation; the unofficial implementation uses ImageNet's.",
            "A cluster of one image fills its places in a batch by repetition.",
            "The last epoch is reported.",
        ),
        results=(
            Reported("Market-1501, ViT-B/16, unsupervised", {"mAP": 86.9, "rank-1": 94.2}, _README),
            Reported("MSMT17, ViT-B/16, unsupervised", {"mAP": 56.4, "rank-1": 77.9}, _README),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    small = {"patch": 16, "width": 64, "depth": 2, "heads": 2, "projection": 32}
    return (
        Component("backbone", "CLIPViT", "reidx_clip_reid.encoder:CLIPViT", small),
        Component("fusion", "ClassAndProjection", "reidx_clip_reid.head:ClassAndProjection"),
        Component("memory", "TextMemory", "reidx_clip_reid.text:TextMemory", {"scale": 100.0}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_clip_reid", "configs"
