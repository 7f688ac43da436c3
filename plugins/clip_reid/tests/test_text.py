"""The memory of texts compared with loops and values by hand, its files, and its place in an experiment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reidx_clip_reid.text import TextMemory
from safetensors.torch import save_file

import reidx
from reidx.errors import CheckpointError, ConfigError
from reidx.testing.tiny import load_experiment, tiny_recipe

ROWS = torch.tensor([[1.0, 0.0], [6.0, 8.0], [0.0, -2.0]])


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A file of three texts of two numbers each."""
    np.save(tmp_path / "texts.npy", ROWS.numpy())
    return str(tmp_path / "texts.npy")


def test_scores_are_scaled_cosines(texts: str) -> None:
    memory = TextMemory(2, texts, of="prompts", scale=20.0)
    features = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for feature, scores in zip(features.tolist(), memory(features).tolist()):
        for text, score in zip(ROWS.tolist(), scores):
            dot = sum(a * b for a, b in zip(feature, text))
            assert math.isclose(score, 20 * dot / math.hypot(*feature) / math.hypot(*text), abs_tol=1e-5)


def test_scores_by_hand(texts: str) -> None:
    """(3, 4) has the cosines 0.6, 1 and -0.8 with (1, 0), (6, 8) and (0, -2), and CLIP's scale is 100."""
    torch.testing.assert_close(TextMemory(2, texts)(torch.tensor([[3.0, 4.0]])), torch.tensor([[60.0, 100.0, -80.0]]))


@pytest.mark.parametrize("name", ["texts.npy", "texts.pt", "named.pt", "half.pt", "texts.safetensors"])
def test_each_form_of_file_is_read(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", ROWS.numpy())
    torch.save(ROWS, tmp_path / "texts.pt")
    torch.save({"text_features": ROWS}, tmp_path / "named.pt")
    torch.save(ROWS.half(), tmp_path / "half.pt")
    save_file({"text_features": ROWS}, tmp_path / "texts.safetensors")
    rows = TextMemory(2, str(tmp_path / name)).rows
    torch.testing.assert_close(rows, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((3, 5), np.float32), "rows of 5 numbers, but the memory's feature has 2. Set feature: aligned"),
        (np.ones(2, np.float32), "one matrix of floats"),
        (np.ones((3, 2), np.int64), "one matrix of floats"),
        (np.zeros((0, 2), np.float32), "one matrix of floats"),
        (np.array([[1, 0], [0, 0]], np.float32), "row 1 of .* has no direction"),
        (np.array([[np.nan, 1]], np.float32), "row 0 of .* has no direction"),
        (np.array([{"code": 1}]), "could not be read as an array of numbers"),
    ],
    ids=["width", "vector", "integers", "empty", "zero", "nan", "objects"],
)
def test_unusable_file_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", content)
    with pytest.raises(CheckpointError, match=message):
        TextMemory(2, str(tmp_path / "texts.npy"))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("no.npy", "no.pt"):
        with pytest.raises(CheckpointError, match=name):
            TextMemory(2, str(tmp_path / name))


def test_prompts_without_file_are_refused() -> None:
    with pytest.raises(ValueError, match="needs texts"):
        TextMemory(2, of="prompts")
    with pytest.raises(ValueError, match="scale is 0"):
        TextMemory(2, scale=0.0)


def test_labels_need_a_text_each(texts: str) -> None:
    memory = TextMemory(2, texts)
    memory.reset(None, torch.tensor([0, 2, -1, 1]))
    with pytest.raises(ConfigError, match="has 3 texts, but there are 4 labels"):
        memory.reset(None, torch.tensor([0, 3]))
    TextMemory(2, texts, of="prompts").reset(None, torch.tensor([0, 3]))


def test_texts_stay_and_features_learn(texts: str) -> None:
    memory = TextMemory(2, texts)
    before, labels = memory.rows.clone(), torch.tensor([0, 1, 2])
    memory.reset(None, labels)
    features = torch.tensor([[1.0, 2.0], [3.0, 1.0], [-1.0, 1.0]], requires_grad=True)
    memory(features).logsumexp(1).sum().backward()
    memory.update(features.detach(), labels, labels)
    assert torch.equal(memory.rows, before) and not list(memory.parameters())
    assert features.grad is not None and bool((features.grad.abs().sum(1) > 0).all())


def test_control_draws_a_direction_per_label() -> None:
    memory = TextMemory(16)
    torch.manual_seed(0)
    memory.reset(None, torch.tensor([0, 4, -1]))
    assert memory.rows.shape == (5, 16)
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(5))
    assert bool((torch.triu(memory.rows @ memory.rows.T, 1).abs() < 0.9).all())


def recipe(folder: Path, root: Path, texts: Path, of: str) -> dict[str, Any]:
    """The rendered recipe on tiny domains, with texts of the identities in the first stage or prompts in the second."""
    memory = {"memory": {"type": "clip_reid.TextMemory", "texts": str(texts), "of": of}, "feature": "aligned"}
    term = {"feature": "aligned", "memory": "texts"}
    stages: dict[str, Any] = {
        "pretrain": {"epochs": 1, "iters": 2, "streams": {"source": {"sampler": {"identities": 4, "instances": 2}}}},
        "adapt": {
            "epochs": 1,
            "iters": 2,
            "streams": {"target": {"sampler": {"identities": 4, "instances": 2}}},
            "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
        },
    }
    if of == "labels":
        stages["pretrain"] |= {"memories": {"texts": {**memory, "labels": "identity"}}}
        stages["pretrain"]["objective"] = [{"loss": {"type": "CrossEntropy", "smoothing": 0.1}, **term}]
    else:
        stages["adapt"] |= {"memories": {"texts": memory}, "teachers": {"clip": {"type": "Frozen"}}}
        stages["adapt"]["objective"] = [
            {"loss": "MemoryContrast", "feature": "embed", "memory": "centroids"},
            {"loss": "mmt.SoftCrossEntropy", **term, "teacher": "clip", "weight": 0.5},
        ]
    return tiny_recipe(
        "clip_reid::synthetic_small.yaml",
        root,
        domains=("source", "target"),
        model={
            "backbone": {"type": "clip_reid.CLIPViT", "patch": 12, "width": 32, "depth": 1, "heads": 1, "projection": 16},
            "bn_group": 8,
        },
        stages=stages,
    )


@pytest.mark.parametrize("of", ["labels", "prompts"])
def test_experiment_trains_with_texts(of: str, tmp_path: Path, domains_root: Path) -> None:
    if of == "prompts":
        pytest.importorskip("reidx_mmt")
    count = 12 if of == "labels" else 3
    texts = tmp_path / "texts.pt"
    torch.save(torch.randn(count, 16, generator=torch.Generator().manual_seed(0)), texts)
    config = load_experiment(tmp_path, recipe(tmp_path, domains_root, texts, of), ["seed=1"])
    history = [epoch for stage in reidx.run(config, tmp_path / "run", progress="quiet").stages for epoch in stage.history]
    term = "CrossEntropy" if of == "labels" else "mmt.SoftCrossEntropy"
    values = [epoch[term] for epoch in history if term in epoch]
    assert len(values) == 1 and 0 < values[0] < 1000


def test_cluster_loss_is_refused_for_prompts(tmp_path: Path, domains_root: Path, texts: str) -> None:
    experiment = recipe(tmp_path, domains_root, Path(texts), "prompts")
    experiment["stages"]["adapt"]["objective"] = [{"loss": "MemoryContrast", "feature": "aligned", "memory": "texts"}]
    with pytest.raises(ConfigError, match=r"reads columns of scores as labels, those of memory 'texts' .* are texts"):
        load_experiment(tmp_path, experiment)
