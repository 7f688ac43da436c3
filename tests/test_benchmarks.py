"""The reference loop in the benchmark of training has the right gradients, table and augmentation."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reidx_cluster_contrast.memory import ClusterMemory
from reidx_osnet.embedding import Embedding
from reidx_osnet.model import OSNet
from reidx_synthetic.domain import render_domain

from benchmarks import choose_eps, methods, packed, protocols, pseudo_labels, ranking, search, training
from benchmarks.reference.training import Erase, Similarities
from reidx.data.datasets import Split
from reidx.testing.miniatures import MINIATURES


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
        search: "--rows 1500 --width 32 --queries 20",
        packed: "--images 24 --size 32 16 --rounds 1",
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


def test_signs_of_eps_are_those_of_both_labellings() -> None:
    """Six people with six images each, and two images apart; the other network merges two of the people."""
    torch.manual_seed(0)
    people = torch.arange(36) // 6
    rows = 10 * torch.eye(8)[torch.cat([people, torch.tensor([6, 7])])] + 0.1 * torch.randn(38, 8)
    merged = 10 * torch.eye(8)[torch.cat([people.clamp(min=1), torch.tensor([6, 7])])] + 0.1 * torch.randn(38, 8)
    ids = torch.cat([people, torch.tensor([6, 7])]).numpy()
    truth, distance = Split([""] * 38, ids, np.zeros(38, np.int64)), {"type": "Jaccard", "k1": 6, "k2": 1}
    assert list(choose_eps.signs([rows, rows], truth, distance, [0.5])) == [(0.5, 6, 6, 2 / 38, 1, 1)]
    ((*others, stability, ari),) = choose_eps.signs([merged, rows], truth, distance, [0.5])
    assert (*others, ari) == (0.5, 6, 6, 2 / 38, 1) and 0.5 < stability < 1


def test_protocols_are_measured_with_one_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (market,) = (miniature for miniature in MINIATURES if miniature.spec.get("queries") == "multi")
    root = market.at(tmp_path / "data")["root"]
    torch.save({**OSNet(0.25).state_dict(), **Embedding(128).state_dict()}, tmp_path / "weights.pth")
    words = ["--root", root, "--weights", str(tmp_path / "weights.pth"), "--size", "64", "32"]
    monkeypatch.setattr("sys.argv", ["protocols", *words])
    protocols.main()
    rows = list(csv.reader(capsys.readouterr().out.rpartition("\n\n")[2].splitlines()))
    assert [row[:2] for row in rows] == [["weights", variant.name] for variant in protocols.VARIANTS]
    assert all(0 <= float(value) <= 100 for row in rows for value in row[2:7])
    plain, trapezoid, *_ = rows
    assert plain[2:7] == trapezoid[2:7] and trapezoid[7].startswith("trapezoid_mAP ")


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
        lines = capsys.readouterr().out.splitlines()
        last, by_epoch = lines[-7:-5], lines[-4:]
        names, ari, passes, seeds = zip(*([line.split("|")[place].strip() for place in (1, 8, 9, 11)] for line in last))
        assert names == ("lp teacher", "lp student")
        assert passes == ("64", "192") and set(seeds) == {"2"}
        assert by_epoch[0] == "| ARI of the labels, epoch | 1 |"  # one epoch: its mean is that of the first table
        assert [line.split("|")[2].split()[0] for line in by_epoch[2:]] == list(ari)
