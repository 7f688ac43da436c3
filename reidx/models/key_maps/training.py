"""Layouts of training checkpoints that hold several networks: the one for use, without the others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reidx.models.key_maps.names import Rename, by_patterns, prefix_of

Shapes = Mapping[str, tuple[int, ...]]


class DINO:
    """The teacher's backbone of a self-distilled pre-training.

    Its names begin with ``teacher.`` and, perhaps after ``module.``, ``backbone.``, also in TransReID-SSL, PASS, PersonViT,
    SOLIDER and CION. The student and the heads are left out.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, and the released code of
    these projects.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefixes = [p for p in ("teacher.backbone.", "teacher.module.backbone.") if any(n.startswith(p) for n in tensors)]
        return by_patterns(prefixes[0]) if prefixes else None

    @staticmethod
    def sample() -> Shapes:
        shapes = {"backbone.cls_token": (1, 1, 8), "backbone.norm.weight": (8,), "head.mlp.0.weight": (4, 8)}
        return {f"{who}.{name}": shape for who in ("student.module", "teacher") for name, shape in shapes.items()}


class MoCo:
    """The query encoder of a momentum contrast, as LUPerson's.

    Its names begin with ``encoder_q.``, perhaps after ``module.``; the key encoder and the queue are left out.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020; Fu et al., "Unsupervised
    Pre-training for Person Re-identification", CVPR 2021.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = next((p for p in ("encoder_q.", "module.encoder_q.") if any(n.startswith(p) for n in tensors)), None)
        return None if prefix is None else by_patterns(prefix)

    @staticmethod
    def sample() -> Shapes:
        shapes = {"conv1.weight": (4, 3, 7, 7), "fc.0.weight": (8, 8)}
        encoders = {f"module.encoder_{part}.{name}": shape for part in "qk" for name, shape in shapes.items()}
        return {**encoders, "module.queue": (8, 16), "module.queue_ptr": (1,)}


class FastReID:
    """The backbone of a fast-reid model.

    Its names begin with ``backbone.``, next to ``heads.``. fast-reid's ResNets pool after the first convolution without padding
    (``ceil_mode``), torchvision's and timm's with it, so features differ from fast-reid's own, mostly at the borders.

    Source: He et al., "FastReID: A Pytorch Toolbox for General Instance Re-identification", 2020, released code.
    """

    remark = "fast-reid's ResNets pool without padding after the first convolution, so its own features differ a little"

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "backbone.conv1.weight")
        if prefix is None or not any(name.startswith(f"{prefix}heads.") for name in tensors):
            return None
        return by_patterns(f"{prefix}backbone.")

    @staticmethod
    def sample() -> Shapes:
        return {
            "pixel_mean": (1, 3, 1, 1),
            "backbone.conv1.weight": (4, 3, 7, 7),
            "heads.bottleneck.0.weight": (8,),
            "heads.weight": (5, 8),
        }
