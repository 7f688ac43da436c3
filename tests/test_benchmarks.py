"""The reference loop in the benchmark of training has the right gradients, table and augmentation."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reidx_cluster_contrast.memory import ClusterMemory
from reidx_osnet.embedding import Embedding
from reidx_osnet.model import OSNet
from reidx_synthetic.domain import render_domain

from benchmarks import methods, pseudo_labels, ranking, training
from benchmarks.reference.training import Erase, Similarities


def test_table_equals_the_cluster_memory() -> None:
    torch.manual_seed(0)
    rows, features = F.normalize(torch.randn(4, 6)), F.normalize(torch.randn(20, 6)).requires_grad_()
    targets = torch.randint(3, (20,))
    memory = ClusterMemory(6)
    memory.reset(rows, torch.arange(4))
    F.cross_entropy(memory(features) / 0.05, targets).backward()
    expected, features.grad = features.grad, None
    table = rows.clone()
    F.cross_entropy(Similarities.apply(F.normalize(features), targets, table, 0.1) / 0.05, targets).backward()
    assert torch.allclose(features.grad, expected, atol=1e-6)
    memory.update(features.detach(), targets, targets)
    assert torch.allclose(table, memory.rows, atol=1e-6) and torch.equal(table[3], rows[3])


def test_erasing_fills_one_rectangle_per_image() -> None:
    marks = [Erase()(torch.full((3, 32, 16), -1.0)) > 0 for _ in range(200)]
    areas = [int(m[0].sum()) for m in marks]
    assert 60 < sum(a > 0 for a in areas) < 140
    for mark in marks:
        assert int(mark[0].sum()) == int(mark[0].any(0).sum()) * int(mark[0].any(1).sum())


def test_every_benchmark_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks run on small inputs with the present code; only parts of their output are checked."""
    small = {
        pseudo_labels: "--images 600 --width 32",
        ranking: "--queries 50 --gallery 200 --width 32",
        training: "--images 32 --steps 1 --rounds 1 --batch 2 2 --size 64 32 --workers 1 --precision fp32 --backbone "
        "'{type: Timm, name: test_resnet}'",
    }
    for module, words in small.items():
        monkeypatch.setattr("sys.argv", [module.__name__, *shlex.split(words)])
        module.main()
        output = capsys.readouterr().out
        assert "reidx" in output and "nan" not in output
        if module is pseudo_labels:
            assert output.count("labels differ: 0,") == 2 and output.endswith("in 100 rows: 0\n")


def test_methods_are_measured_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = render_domain(tmp_path / "images", identities=(12, 6), size=(64, 32))
    torch.save({**OSNet(0.25).state_dict(), **Embedding(128).state_dict()}, tmp_path / "osnet.pth")
    few = ["epochs=1", "iters=1", "calibrate=1", "stages.warmup.iters=1", "data.image_size=[64,32]", "labels.distance.k1=8"]
    few.append("labels.clusterer={type: KMeans, n_clusters: 16}")
    words = ["--root", str(root), "--weights", str(tmp_path / "osnet.pth"), "--folder", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["methods", *words, "--seeds", "1", "2", "--methods", "lp", "--set", *few])
    for _ in range(2):  # the second call has nothing left to train
        methods.main()
        last = capsys.readouterr().out.splitlines()[-2:]
        names, passes, seeds = zip(*((cells[1], cells[9], cells[11]) for cells in (line.split("|") for line in last)))
        assert [n.strip() for n in names] == ["lp teacher", "lp student"]
        assert [p.strip() for p in passes] == ["64", "192"] and {s.strip() for s in seeds} == {"2"}
