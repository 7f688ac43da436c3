"""Renamed keys: from version 0.1 to their present names, by section of the schema."""

from __future__ import annotations

RENAMED: dict[str, dict[str, str]] = {
    "Stage": {"bank": "feature_dtype", "accumulate": "grad_cache_chunks", "sees": "network_streams"},
    "Labelling": {"on": "feature", "levels": "labellings"},
    "MemorySlot": {"on": "feature"},
    "Term": {
        "on": "feature",
        "against": "teacher",
        "against_stream": "teacher_stream",
        "against_on": "teacher_feature",
        "against_memory": "teacher_memory",
    },
    "Evaluate": {"on": "feature"},
    "optimizer": {
        "layer_decay": "optimization.layer_decay",
        "no_decay_norm_bias": "optimization.no_decay_norm_bias",
        "rates": "optimization.rates",
        "moments": "optimization.state_from",
        "restart_every": "optimization.restart_every",
        "lr_batch": "optimization.lr_batch",
    },
}
