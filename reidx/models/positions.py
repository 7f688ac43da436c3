"""Position embeddings and bias tables of timm models, and their resizing to another image size.

Such a tensor has an entry for each place of a grid, or for each displacement within a window. Its shape gives the number of
entries, but not always rows and columns: 16 x 4 and 8 x 8 both have 64 places. So a tensor is resized between two known
layouts: those of the model built for each of the two image sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_levit
from torch import Tensor

from reidx.errors import CheckpointError

Size = tuple[int, int]
"""Height and width of images (in pixels), or of grids and windows (in places)."""

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """The order of the entries of one tensor.

    ``kind`` is ``grid`` (1, prefix + h·w, C), ``plane`` (a 4-d tensor whose ``axes`` are rows and columns), ``window`` (a table
    of displacements within a window of ``size``), ``offsets`` (heads, h·w: absolute displacements), ``line`` (displacements
    along one direction), or ``unknown``; two unknown layouts are equal only for the same image size.
    """

    kind: str
    size: Size
    axes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"


class Positions:
    """Tensors of a timm model that depend on the image size; ``names`` are those whose shapes differ between ``sizes``.

    ``skeleton(size)`` builds the model for images of a size, without values (on torch's meta device); sizes for which it
    raises an error are not compared.
    """

    def __init__(self, skeleton: Callable[[Size], Any], sizes: Iterable[Size]) -> None:
        self._skeleton = skeleton
        self._models: dict[Size, Any] = {}
        self._shapes: dict[Size, dict[str, Shape]] = {}
        for size in dict.fromkeys(sizes):
            try:
                self.shapes(size)
            except Exception:  # each family has its own requirements for the size
                continue
        known = list(self._shapes.values())
        self.names = {name for name in set().union(*known) if len({shapes.get(name) for shapes in known}) > 1}

    def shapes(self, size: Size) -> dict[str, Shape]:
        """Return the shapes of all stored tensors of the model for images of ``size``."""
        if size not in self._shapes:
            model = self._skeleton(size)
            self._models[size] = model
            self._shapes[size] = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return self._shapes[size]

    def fits(self, state: Mapping[str, Tensor], size: Size) -> bool:
        """Return True if these tensors in ``state`` have the shapes for images of ``size``."""
        try:
            shapes = self.shapes(size)
        except Exception:
            return False
        return all(tuple(state[name].shape) == shapes.get(name) for name in self.names & state.keys())

    def layouts(self, size: Size) -> dict[str, Layout]:
        """Return the layout of each of these tensors in the model for images of ``size``."""
        return {name: self._layout(name, size) for name in sorted(self.names)}

    def same_layouts(self, one: Size, other: Size) -> bool:
        """Return True if no tensor differs between two image sizes."""
        return one == other or self.layouts(one) == self.layouts(other)

    def grid(self, state: Mapping[str, Tensor]) -> str | None:
        """Return the name of the tensor of ``state`` with an embedding for each place of a grid; None if there is none."""
        for name in sorted(self.names & state.keys()):
            if any(self._layout(name, size).kind == "grid" for size in self._shapes):
                return name
        return None

    def resized(self, state: Mapping[str, Tensor], old: Size, new: Size) -> tuple[dict[str, Tensor], list[str]]:
        """Resize these tensors of ``state`` from image size ``old`` to ``new``.

        Also returns the names of the tensors that cannot be resized and are returned unchanged.
        """
        out, stuck = dict(state), []
        for name in sorted(self.names & state.keys()):
            before, after = self._layout(name, old), self._layout(name, new)
            if before == after:
                continue
            value = _move(state[name], before, after, self.shapes(new)[name])
            if value is None:
                stuck.append(name)
            else:
                out[name] = value
        return out, stuck

    def _layout(self, name: str, size: Size) -> Layout:
        shape = self.shapes(size).get(name)
        unknown = Layout("unknown", size)
        if shape is None:
            return unknown
        parent, _, leaf = name.rpartition(".")
        module = self._models[size].get_submodule(parent)
        if leaf == "relative_position_bias_table" and hasattr(module, "window_size"):
            return Layout("window", _pair(module.window_size))
        if leaf == "attention_biases" and isinstance(getattr(module, "resolution", None), int):
            return Layout("offsets", _pair(module.resolution))
        if leaf in ("rel_pos_h", "rel_pos_w") and len(shape) == 2:
            return Layout("line", (shape[0], 1))
        if len(shape) == 3:
            patches = getattr(module, "patch_embed", getattr(module, "pixel_embed", None))
            grid = getattr(patches, "grid_size", None)
            if grid is not None and shape[1] >= grid[0] * grid[1]:
                return Layout("grid", _pair(grid))
        if len(shape) == 4:
            all_shapes = [its[name] for its in self._shapes.values() if len(its.get(name, ())) == 4]
            varying = tuple(axis for axis in range(4) if len({its[axis] for its in all_shapes}) > 1)
            if len(varying) == 2:
                return Layout("plane", (shape[varying[0]], shape[varying[1]]), varying)
        return unknown


def _move(value: Tensor, old: Layout, new: Layout, shape: Shape) -> Tensor | None:
    """Resize ``value`` to the layout ``new`` as timm does; None if the layouts do not allow it."""
    if old.kind != new.kind or old.axes != new.axes:
        return None
    if old.kind == "grid":
        prefix = value.shape[1] - old.size[0] * old.size[1]
        # timm returns the values unchanged if the counts agree, unless the old grid is given
        return resample_abs_pos_embed(value, list(new.size), list(old.size), num_prefix_tokens=prefix)
    if old.kind == "window":
        return resize_rel_pos_bias_table(value, new.size, shape, old_window_size=old.size)
    if old.kind == "offsets":
        return resize_rel_pos_bias_table_levit(value.T, shape[::-1]).T.contiguous()
    if old.kind == "line":
        return F.interpolate(value.T[None].float(), size=new.size[0], mode="linear")[0].T.to(value.dtype).contiguous()
    if old.kind == "plane":
        rest = tuple(axis for axis in range(4) if axis not in old.axes)
        there = (*rest, *old.axes)
        plane = F.interpolate(value.permute(there).float(), size=new.size, mode="bicubic", antialias=True)
        back = tuple(there.index(axis) for axis in range(4))
        return plane.permute(back).to(value.dtype).contiguous()
    return None


def _pair(size: Any) -> Size:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def resize_positions(value: Tensor, new: Size, old: Size | None, prefix: int, where: str) -> Tensor:
    """Resize position embeddings (1, prefix + h·w, C) of a grid ``old`` of patches to the grid ``new``, as timm does.

    ``prefix`` other tokens come before the patches. Without ``old``, the grid is the one that the values show, else ``new`` if
    it has as many patches. Embeddings of the same grid are returned unchanged. Raises :class:`CheckpointError`, which names
    ``where``, for an unknown or a wrong grid.
    """
    patches = value.shape[1] - prefix
    if old is None:
        old = infer_grid(value[0, prefix:]) or (new if patches == new[0] * new[1] else None)
    if old is None or patches != old[0] * old[1]:
        known = "their grid is unknown" if old is None else f"a grid of {old[0]}x{old[1]} has {old[0] * old[1]}"
        raise CheckpointError(
            f"{where} has position embeddings of {patches} patches, and {known}. Set weights_image_size: [HEIGHT, WIDTH] of "
            "the backbone to the size of the images that they were trained on."
        )
    return value if old == new else resample_abs_pos_embed(value, list(new), list(old), num_prefix_tokens=prefix)


def infer_grid(places: Tensor) -> Size | None:
    """Infer the rows and columns of the embeddings (N, C) of N places from their values; None if unclear.

    Trained embeddings are most similar between neighbours. In a grid of w columns, entries i and i + w are vertical
    neighbours, so the right divisor w of N has the smallest mean difference between them. The minimum is clear if it is at
    least a tenth below the value at any other divisor, and at w - 1 and w + 1 (diagonal neighbours).
    """
    count = len(places)
    columns = [w for w in range(2, count // 2 + 1) if count % w == 0]
    if not columns:
        return None
    values = places.float() - places.float().mean(0)

    def difference(lag: int) -> float:
        return (values[lag:] - values[:-lag]).square().sum(1).mean().item()

    found = {w: difference(w) for w in columns}
    best = min(found, key=found.__getitem__)
    others = [value for w, value in found.items() if w != best] + [difference(best - 1), difference(best + 1)]
    return (count // best, best) if found[best] < 0.9 * min(others) else None
