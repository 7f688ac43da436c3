"""Cache of initial features, shared by runs that start from the same weights and images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from reidx.config.config import Config
from reidx.config.schema import Stage
from reidx.config.yaml_tree import tree_hash
from reidx.errors import CheckpointError, RunError
from reidx.machine.devices import device_of_this_process
from reidx.runs import checkpoint as checkpoints
from reidx.runs.lock import locked
from reidx.runs.manifest import namespaces
from reidx.runs.named_files import by_content, digests_of
from reidx.runs.stage_key import with_effect


class FirstFeatures:
    """Features of a stage's networks before training, cached in ``folder`` for all runs.

    The cache key is a hash of weights, architecture, images, image settings, code, torch version and kind of device.
    """

    def __init__(
        self, folder: Path, config: Config, stage: Stage, provenance: Mapping[str, Any], message: Callable[[str], None]
    ) -> None:
        self.folder, self.config, self.provenance, self.message = folder, config, provenance, message
        self.model = dataclasses.asdict(stage.model)
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(
        self, domain: str, split: str, how: Mapping[str, Any], names: set[str], extract: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the named features of a split from the cache, or call ``extract`` and cache its result.

        ``how`` holds everything else that determines the features, apart from the model, the data and the code. A second
        process waits for the first.
        """
        facts = self._facts(domain, split, how)
        name = self.folder / tree_hash(facts)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(name.with_suffix(".lock"), wait=True, message=self.message))
            except OSError as error:
                self.message(f"{self.folder}: features cannot be shared with other runs ({error})")
                return extract()
            kept = {feature: name.with_name(f"{name.name}-{feature}.pth") for feature in sorted(names)}
            try:
                if all(path.exists() for path in kept.values()):
                    images = self.provenance["data"][domain][split]["images"]
                    return {feature: _read(path, name.name, feature, images) for feature, path in kept.items()}
            except CheckpointError as error:
                self.message(f"{error}; the features are extracted again")
            features = extract()
            try:
                for feature, path in kept.items():
                    checkpoints.save(path, {"bank": features[feature], "of": name.name, "feature": feature})
            except (OSError, RunError) as error:
                self.message(f"{self.folder}: features cannot be saved for other runs ({error})")
            return features

    def _facts(self, domain: str, split: str, how: Mapping[str, Any]) -> dict[str, Any]:
        data, code = self.config.experiment.data, self.provenance["code"]
        spec = with_effect(domain, self.config.data["data"]["domains"][domain])
        concerned = {"reidx", *namespaces([self.model, spec])}
        model, spec = (by_content(part, digests_of(part)) for part in (self.model, spec))
        return {
            **how,
            "model": model,
            "domain": [domain, spec, split, self.provenance["data"][domain][split]],
            "image_size": list(data.image_size),
            "interpolation": data.interpolation,
            "code": {name: source for name, source in code.items() if name in concerned},
            "torch": self.provenance["torch"],
            "threads": self.provenance["threads"],
            "device": device_of_this_process().type,
        }


def _read(path: Path, key: str, feature: str, images: int) -> Tensor:
    """Read the rows (N,…) of a cached feature; raises :class:`CheckpointError` for a damaged or foreign file."""
    if checkpoints.is_complete(path):
        content = checkpoints.load(path)
        features = content.get("bank") if isinstance(content, Mapping) else None
        own = isinstance(content, Mapping) and (content.get("of"), content.get("feature")) == (key, feature)
        floats = isinstance(features, Tensor) and features.is_floating_point() and features.ndim > 1
        if own and isinstance(features, Tensor) and floats and len(features) == images:
            return features
    raise CheckpointError(f"{path} is damaged, or does not hold the features of these {images:,} images")
