"""Loaded configs: defaults with their origin, inheritance from the top level to stages, refusals that name the line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import plan_of
from reidx.config.config import Config
from reidx.config.yaml_tree import load_tree
from reidx.errors import ConfigError
from reidx.testing.colours import draw_domains
from reidx.testing.tiny import write_experiment

ROOT = Path(__file__).parents[2]

EXPERIMENT = """\
name: small
data:
  domains:
    target: {type: Market1501, root: images}
model:
  backbone: {type: Timm, name: test_resnet}
streams:
  target: {domain: target, labels: main}
labels:
  domain: target
memories:
  rows: {memory: LinearClassifier}
objective:
  - {loss: CrossEntropy, memory: rows}
stages:
  - {name: first, epochs: 3}
  - name: second
    epochs: 4
    init: stage:first
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Return a function that loads EXPERIMENT with lines added at its end and parts of its text replaced."""
    monkeypatch.chdir(tmp_path)

    def load(*overrides: str, more: str = "", **replaced: str) -> Config:
        text = EXPERIMENT
        for old, new in replaced.items():
            line = next(row for row in EXPERIMENT.splitlines(keepends=True) if row.strip(" -{").startswith(f"{old}:"))
            text = text.replace(line, new + "\n" if new else "", 1)
        Path("exp.yaml").write_text(text + more, encoding="utf-8")
        return reidx.load_config("exp.yaml", overrides)

    return load


def refusal(load: Callable[..., Config], *overrides: str, **changes: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(*overrides, **changes)
    return str(error.value)


def origin(config: Config, dotted: str) -> str:
    path = tuple(int(key) if key.isdecimal() else key for key in dotted.split("."))
    return str(config.tree.origin(path))


# ---- filled-in values


def test_defaults_are_filled_in_with_their_origin(load):
    config = load()
    stage = config.data["stages"][0]
    assert (stage["iters"], origin(config, "stages.0.iters")) == (200, "default")
    assert stage["labels"]["labellings"]["main"]["clusterer"] == {"type": "DBSCAN", "eps": 0.6, "min_samples": 4}
    assert origin(config, "stages.0.labels.labellings.main.clusterer.eps") == "default of DBSCAN"
    assert origin(config, "stages.0.labels.labellings.main.clusterer.type") == "default"
    assert stage["model"]["fusion"]["type"] == "GlobalPool"
    assert origin(config, "stages.0.model.backbone.name") == "exp.yaml:6"
    assert origin(config, "stages.0.model.backbone.last_stride") == "default of Timm"
    assert config.data["data"]["image_size"] == [256, 128]
    assert stage["objective"][0]["weight"] == 1.0
    assert origin(config, "stages.0.objective.0.weight") == "default"
    assert stage["objective"][0]["loss"] == {"type": "CrossEntropy", "smoothing": 0.0, "temperature": 1.0}
    assert origin(config, "stages.0.objective.0.loss.smoothing") == "default of CrossEntropy"
    assert origin(config, "stages.0.objective.0.loss.type") == "exp.yaml:14"
    assert stage["optimization"] == {
        "layer_decay": None, "no_decay_norm_bias": False, "rates": {}, "state_from": None, "restart_every": None,
        "lr_batch": None,
    }  # fmt: skip


def test_supplied_arguments_are_no_keys(load):
    stage = load().data["stages"][0]
    assert "in_channels" not in stage["model"]["fusion"]
    assert "memory" in stage["memories"]["rows"] and "dim" not in stage["memories"]["rows"]["memory"]
    assert not {"labels", "batches", "rank"} & set(stage["streams"]["target"]["sampler"])


def test_typed_experiment_equals_the_data(load):
    experiment = load(more="precision: bf16\n").experiment
    first, second = experiment.stages
    assert (first.epochs, second.epochs, second.init) == (3, 4, "stage:first")
    assert first.precision == second.precision == "bf16"
    assert experiment.data.image_size == (256, 128)
    assert first.labels["main"].clusterer["eps"] == 0.6
    assert first.evaluate.every == 0


# ---- the top level and the stages


def test_top_level_keys_are_defaults_of_stages(load):
    config = load(more="    optimizer: {lr: 1e-2}\noptimizer: {type: SGD, lr: 0.1, momentum: 0.9}\niters: 7\n")
    first, second = config.data["stages"]
    assert first["optimizer"] == {"type": "SGD", "lr": 0.1, "momentum": 0.9}
    assert second["optimizer"] == {"type": "SGD", "lr": 0.01, "momentum": 0.9}
    assert first["iters"] == second["iters"] == 7
    assert "iters" not in config.data and "optimizer" not in config.data
    assert origin(config, "stages.1.optimizer.lr") == "exp.yaml:20"
    assert origin(config, "stages.1.optimizer.momentum") == "exp.yaml:21"


def test_other_component_inherits_no_arguments(load):
    config = load(more="    labels: {clusterer: {type: KMeans}}\n", labels="labels:\n  clusterer: {eps: 0.5, type: DBSCAN}")
    assert config.data["stages"][0]["labels"]["labellings"]["main"]["clusterer"]["eps"] == 0.5
    clusterer = config.data["stages"][1]["labels"]["labellings"]["main"]["clusterer"]
    assert clusterer["type"] == "KMeans" and "eps" not in clusterer


def test_keys_without_type_adjust_default_component(load):
    stage = load(more="optimizer: {lr: 0.1}\nevaluate: {protocol: NoCameraFilter}\n").data["stages"][0]
    assert stage["optimizer"] == {"type": "Adam", "lr": 0.1, "weight_decay": 5e-4}
    assert stage["evaluate"]["protocol"] == {"type": "NoCameraFilter"}
    stage = load(labels="labels:\n  clusterer: {eps: 0.5}").data["stages"][0]
    assert stage["labels"]["labellings"]["main"]["clusterer"] == {"type": "DBSCAN", "eps": 0.5, "min_samples": 4}


def test_mapping_without_type_adjusts_a_named_component(load, tmp_path):
    (tmp_path / "base.yaml").write_text(EXPERIMENT.replace("name: test_resnet}", "name: test_resnet}\n  fusion: GlobalPool"))
    (tmp_path / "derived.yaml").write_text(
        "_base_: base.yaml\nmemories: {rows: {memory: {scale: 5.0}}}\nmodel: {fusion: {pool: avg}}\n"
        "stages: {second: {memories: {rows: {memory: {normalize: true}}}}}\n"
    )
    first, second = (stage["memories"]["rows"] for stage in reidx.load_config("derived.yaml").data["stages"])
    assert (first["memory"]["type"], first["memory"]["normalize"], first["memory"]["scale"]) == ("LinearClassifier", False, 5.0)
    assert second == {**first, "memory": {**first["memory"], "normalize": True}}
    fusion = reidx.load_config("derived.yaml").data["stages"][0]["model"]["fusion"]
    assert (fusion["type"], fusion["pool"]) == ("GlobalPool", "avg")
    # overrides do so too: for the whole slot and for one argument
    for override in ("memories.rows.memory={scale: 5.0}", "memories.rows.memory.scale=5.0"):
        assert load(override).data["stages"][0]["memories"]["rows"] == first
    assert load("objective.0.loss.smoothing=0.1").data["stages"][0]["objective"][0]["loss"]["smoothing"] == 0.1
    assert refusal(load, "name.first=1").endswith("name is a string and has nothing inside.")
    # another component inherits no arguments
    another = load("memories.rows.memory={type: cluster_contrast.ClusterMemory}", "memories.rows.memory.momentum=0.5")
    assert another.data["stages"][0]["memories"]["rows"]["memory"]["momentum"] == 0.5
    assert "scale" not in another.data["stages"][0]["memories"]["rows"]["memory"]


def test_null_removes_a_name(load):
    levels = "labels:\n  labellings: {main: {}, fine: {feature: pooled}}"
    more = "    labels: {labellings: {fine: null}}\n"
    both, without = (stage["labels"]["labellings"] for stage in load(more=more, labels=levels).data["stages"])
    assert (list(both), list(without)) == (["main", "fine"], ["main"])


def test_null_removes_a_rate(load):
    rates = "optimization: {rates: {backbone: 0.1, memories.rows: 10}}\n"
    assert load("optimization.rates.backbone=null", more=rates).data["stages"][0]["optimization"]["rates"] == {
        "memories.rows": 10
    }


def test_default_labelling_is_called_main(load):
    labellings = load().data["stages"][0]["labels"]["labellings"]
    assert list(labellings) == ["main"] and labellings["main"]["domain"] == "target"


def test_label_keys_are_defaults_of_labellings(load):
    config = load(labels="labels:\n  flip: true\n  labellings: {main: {}, coarse: {flip: false, feature: pooled}}")
    main, coarse = config.data["stages"][0]["labels"]["labellings"].values()
    assert main["domain"] == coarse["domain"] == "target"
    assert (main["flip"], main["feature"]) == (True, "embed")
    assert (coarse["flip"], coarse["feature"]) == (False, "pooled")


@pytest.mark.parametrize("none", ["null", "{}", "{labellings: {}}"])
def test_stage_can_drop_top_level_labels(load, none):
    changes = f"""\
    labels: {none}
    streams: {{target: {{labels: identity}}}}
    memories: {{rows: {{labels: identity}}}}
"""
    if none == "null":
        config = load(more=changes)
        assert list(config.data["stages"][0]["labels"]["labellings"]) == ["main"]
        assert config.data["stages"][1]["labels"] == {"labellings": {}}
    else:  # an empty mapping adjusts the labels, it does not remove them
        assert load(more=changes).data["stages"][1]["labels"] != {"labellings": {"main": {}}}


def test_null_is_an_empty_list_or_mapping(load):
    stage = load(more="alignment: null\nteachers: null\nschedule: null\n").data["stages"][0]
    assert (stage["alignment"], stage["teachers"], stage["schedule"]) == ([], {}, [])


# ---- overrides


def test_overrides_reach_defaults_stages_and_items(load):
    config = load(
        "iters=9", "labels.clusterer.eps=0.4", "stages.second.iters=8", "stages.first.evaluate.domain=target",
        "objective.0.weight=2", "data.domains.target.root=elsewhere", "evaluate={metric: cosine}",
    )  # fmt: skip
    first, second = config.data["stages"]
    assert (first["iters"], second["iters"]) == (9, 8)
    assert second["labels"]["labellings"]["main"]["clusterer"]["eps"] == 0.4
    assert first["evaluate"]["domain"] == "target" and second["evaluate"]["domain"] is None
    assert first["evaluate"]["metric"] == "cosine"
    assert second["objective"][0]["weight"] == 2 and config.data["data"]["domains"]["target"]["root"] == "elsewhere"
    assert origin(config, "stages.0.iters") == "--set"


def test_override_that_every_stage_overrules_is_refused(load):
    assert refusal(load, "epochs=1") == (
        "--set epochs: has no effect, as each stage (first, second) sets its own. "
        "Address the stage: --set stages.NAME.epochs=…"
    )
    assert load("init=null").data["stages"][0]["init"] is None  # only the second stage sets its own


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("itres=3", "--set itres=3: the experiment has no key 'itres'."),
        ("stages.frist.epochs=3", "stages has no item named 'frist'. Did you mean first?"),
        ("stages.5.epochs=3", "stages has 2 items, counted from 0."),
        ("labels.clusterer.epz=3",
         "clusterer DBSCAN (--set: stages.0.labels.labellings.main.clusterer): unknown key 'epz'. Did you mean eps?"),
        ("model.backbone.nane=x", "backbone Timm (exp.yaml:6: stages.0.model.backbone): unknown key 'nane' (--set). Did"),
        ("iters=many", "--set: stages.0.iters is 'many' (a string); expected int."),
        ("iters", "--set iters: write key.path=value"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(load, override, message):
    assert message in refusal(load, override)


# ---- refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("itres: 3\n", "exp.yaml:20: unknown key 'itres'. Did you mean iters?"),
        ("    epochz: 3\n", "exp.yaml:20: unknown key 'stages.1.epochz'. Did you mean epochs?"),
        ("evaluate: {metrik: cosine}\n", "exp.yaml:20: unknown key 'stages.0.evaluate.metrik'. Did you mean metric?"),
        ("teachers: {mean: {type: EMA, momentun: 1}}\n", "exp.yaml:20: unknown key 'stages.0.teachers.mean.momentun'."),
        ("optimizer: {type: SGD, lr: 0.1, momentun: 0.9}\n",
         "exp.yaml:20: stages.0.optimizer: SGD has no setting 'momentun'. Did you mean momentum?"),
        ("optimization: {layer_decai: 0.9}\n",
         "exp.yaml:20: unknown key 'stages.0.optimization.layer_decai'. Did you mean layer_decay?"),
        ("optimizer: {type: Adem}\n", "stages.0.optimizer: There is no optimizer called 'Adem'. Did you mean Adam?"),
        ("optimizer: {type: timm.Loin}\n", "There is no optimizer called 'timm.Loin'. Did you mean timm.Lion?"),
        ("optimizer: {type: mine.Lion}\n", "There is no optimizer called 'mine.Lion'. No plugin called 'mine' is installed;"),
        ("optimizer: {type: LBFGS}\n", "The optimizer LBFGS cannot train a stage: its step takes a closure that "
         "computes the loss again, but one step of a stage computes the objective once (docs/limits.md)."),
        ("schedule: [ReduceOnPlateauLR]\n", "The schedule ReduceOnPlateauLR cannot train a stage: it follows a validation"),
        ("optimizer: [Adam]\n", "exp.yaml:20: stages.0.optimizer is a list; an optimizer is written as a name"),
        ("schedule: [{type: StepLR, step_size: 2, gama: 1}]\n",
         "exp.yaml:20: stages.0.schedule.0: StepLR has no setting 'gama'. Did you mean gamma?"),
        ("schedule: [StepLR]\n", "exp.yaml:20: stages.0.schedule.0: StepLR needs 'step_size' (int)."),
        ("schedule: {type: StepLR}\n", "exp.yaml:20: stages.0.schedule is a mapping; it must be a list."),
        ("alignment: [{alignment: Nothing}]\n", "exp.yaml:20: stages.0.alignment.0.alignment: There is no alignment"),
    ],
)  # fmt: skip
def test_unknown_keys_and_names_at_every_level(load, more, message):
    assert message in refusal(load, more=more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "  backbone: {type: Timm, nane: x}"},
         "backbone Timm (exp.yaml:6: stages.0.model.backbone): 2 faults\n  unknown key 'nane'. Did you mean name?"),
        ({"backbone": "  backbone:\n    type: Timm\n    name: 3"},
         "backbone Timm (exp.yaml:6: stages.0.model.backbone): 'name' (exp.yaml:8) is 3 (int); expected str."),
        ({"backbone": "  backbone: {type: Tim, name: x}"},
         "exp.yaml:6: stages.0.model.backbone: There is no backbone called 'Tim'."),
        ({"backbone": "  backbone: {name: x}"}, "exp.yaml:6: stages.0.model.backbone is a mapping without 'type'; a backbone"),
        ({"backbone": "  backbone: [Timm]"}, "exp.yaml:6: stages.0.model.backbone is a list; a backbone is written as a name"),
        ({"backbone": "  backbone: {type: [Timm]}"}, "stages.0.model.backbone is a mapping whose 'type' is a list;"),
        ({"rows": "  rows: {memory: {type: LinearClassifier, dim: 3}}"},
         "memory LinearClassifier (exp.yaml:12: stages.0.memories.rows.memory): 'dim' is supplied by the experiment itself"),
        ({"loss": "  - {loss: {type: CrossEntropy, smoothin: 2}, memory: rows}"},
         "loss CrossEntropy (exp.yaml:14: stages.0.objective.0.loss): unknown key 'smoothin'. Did you mean smoothing?"),
        ({"loss": "  - {memory: rows}"}, "exp.yaml:14: stages.0.objective.0.loss is missing: a loss must be given."),
        ({"rows": "  rows: {}"}, "exp.yaml:12: stages.0.memories.rows.memory is missing: a memory must be given."),
        ({"rows": "  rows: LinearClassifier"},
         "exp.yaml:12: stages.0.memories.rows is a string; it must be a mapping of keys."),
        ({"target": "    target: {type: Syntetic}"}, "exp.yaml:4: data.domains.target: There is no dataset called 'Syntetic'."),
    ],
)  # fmt: skip
def test_a_component_is_checked_against_its_constructor(load, changes, message):
    assert message in refusal(load, **changes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("iters: many\n", "exp.yaml:20: stages.0.iters is 'many' (a string); expected int."),
        ("iters: null\n", "exp.yaml:20: stages.0.iters is null; expected int."),
        ("iters: true\n", "exp.yaml:20: stages.0.iters is True (a boolean); expected int."),
        ("iters: 2.5\n", "exp.yaml:20: stages.0.iters is 2.5 (a number); expected int."),
        ("iters: 0\n", "exp.yaml:20: stages.0.iters is 0; it must be from 1 to 1000000000."),
        ("seed: -1\n", "exp.yaml:20: seed is -1; it must be from 0 to 4294967295."),
        ("model: {bn_group: 1}\n", "key 'model' is given twice"),
        ("precision: fp16\n", "exp.yaml:20: stages.0.precision is 'fp16' (a string); expected one of auto, fp32, bf16."),
        ("evaluate: null\n", "exp.yaml:20: stages.0.evaluate is null; it must be a mapping of keys."),
        ("teachers: {mean: {type: EMA, momentum: 1.5}}\n", "stages.0.teachers.mean.momentum is 1.5; it must be from 0 to 1."),
        ("teachers: {mean: {}}\n", "exp.yaml:20: stages.0.teachers.mean.type is missing"),
        ("optimizer: {type: SGD, lr: fast}\n", "exp.yaml:20: stages.0.optimizer.lr is 'fast' (a string);"),
        ("optimization: {layer_decay: 1.5}\n",
         "exp.yaml:20: stages.0.optimization.layer_decay is 1.5; it must be from 0 to 1."),
        ("optimization: {lr_batch: 0}\n", "exp.yaml:20: stages.0.optimization.lr_batch is 0; it must be at least 1."),
        ("compile: max-autotune\n", "expected one of False, True, max-autotune-no-cudagraphs."),
        ("clip_by: length\n", "exp.yaml:20: stages.0.clip_by is 'length' (a string); expected one of norm, value."),
        ("grad_cache_chunks: 0\n", "exp.yaml:20: stages.0.grad_cache_chunks is 0; it must be from 1 to 1000000000."),
        ("optimization: {layer_decay: 0.7}\nschedule: [{type: CosineAnnealingLR, eta_min: 1e-6}]\n",
         "exp.yaml:21: stages.0.schedule.0.eta_min is one rate for all layers, but optimization.layer_decay gives each its "
         "own. Leave it out, or use eta_min_ratio where the schedule has it."),
        ("optimization: {layer_decay: 0.7}\nschedule: [{type: OneCycleLR, eta_max: 1e-2, total_steps: 3}]\n",
         "stages.0.schedule.0.eta_max is one rate for all layers"),
        ("optimizer: {type: SGD, lr: -1.0}\n", "exp.yaml:20: stages.0.optimizer.lr is -1.0; it must be at least 0."),
        ("optimizer: {betas: [1.5, 0.9]}\n",
         "optimizer Adam (exp.yaml:20: stages.0.optimizer): Invalid beta parameter at index 0: 1.5"),
        ("optimizer: {type: SGD, lr: 0.1, nesterov: true}\n", "stages.0.optimizer): Nesterov momentum requires"),
        ("schedule: [{type: LinearLR, begin: 5, end: 2}]\n",
         "schedule LinearLR (exp.yaml:20: stages.0.schedule.0): end should be larger than begin"),
        ("    labels: {clusterer: {eps: 2.0}}\n",
         "clusterer DBSCAN (exp.yaml:20: stages.1.labels.labellings.main.clusterer): "),
        ("    streams: {target: {transform: {type: ReidAugment, pad: -1}}}\n",
         "transform ReidAugment (exp.yaml:20: stages.1.streams.target.transform): "),
        ("    objective: [{loss: {type: CrossEntropy, smoothing: 3.0}, memory: rows}]\n",
         "loss CrossEntropy (exp.yaml:20: stages.1.objective.0.loss): "),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(load, more, message):
    assert message in refusal(load, more=more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "exp.yaml: name is missing"),
        ({"name": "name: a/b"}, "exp.yaml:1: name is 'a/b'; it names a folder"),
        ({"name": "name: 3"}, "exp.yaml:1: name is 3 (a number); expected str."),
        ({"backbone": "  bn_group: 4"}, "exp.yaml:5: stages.0.model.backbone is missing: a backbone must be given."),
        ({"model": "", "backbone": ""}, "exp.yaml:15: stages.0.model.backbone is missing"),
        ({"stages": "stages: []\nteachers:"}, "exp.yaml:15: stages must be a list of at least one stage"),
        ({"stages": "stages: {a: 1}\nteachers:"}, "exp.yaml:15: stages must be a list of at least one stage"),
        ({"stages": "stages:\n  - 3"}, "exp.yaml:16: stages.0 is a number; it must be a mapping of keys."),
        ({"stages": "stages:\n  - epochs: 3"}, "exp.yaml:16: stages.0.name is missing"),
    ],
)  # fmt: skip
def test_required_parts_of_an_experiment(load, changes, message):
    text = refusal(load, **changes)
    assert message in text or re.sub(r":\d+:", ":", message) in re.sub(r":\d+:", ":", text)


# ---- the hash and the rendered config


def test_the_hash_depends_only_on_values(load, tmp_path):
    config = load()
    other = tmp_path / "sorted.yaml"
    other.write_text(yaml.safe_dump(yaml.safe_load(EXPERIMENT), sort_keys=True), encoding="utf-8")
    assert reidx.load_config(other).hash == config.hash
    assert load("labels.clusterer.eps=0.6").hash == config.hash  # the default, written out
    assert load("labels.clusterer.eps=0.5").hash != config.hash
    assert load("seed=2").hash != config.hash
    assert re.fullmatch("[0-9a-f]{12}", config.hash)


@pytest.mark.parametrize("origins", [True, False])
def test_rendered_config_is_the_same_experiment(load, tmp_path, origins):
    config = load("stages.second.iters=5", more="schedule: [{type: CosineAnnealingLR, eta_min: 1e-6}]\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "config.yaml").write_text(config.render(origins), encoding="utf-8")
    again = reidx.load_config(folder / "config.yaml")
    assert (again.hash, again.data) == (config.hash, config.data)
    assert (" # exp.yaml:6" in config.render(origins)) == origins


def shipped() -> list[Any]:
    paths = [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("plugins/*/*/configs/**/*.yaml")]
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sorted(paths)]


@pytest.mark.parametrize("path", shipped())
def test_every_shipped_config_loads(path, tmp_path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "ablate" in config:
        plan = plan_of(read_grid(path), tmp_path)
        refused = [row for row in plan.rows if not row.runs]
        assert len(plan.rows) > len(refused) + 1
    elif "name" in config and ("stages" in config or "_base_" in config):
        loaded = reidx.load_config(path)
        (tmp_path / "rendered.yaml").write_text(loaded.render(), encoding="utf-8")
        assert reidx.load_config(tmp_path / "rendered.yaml").hash == loaded.hash
    else:
        user = tmp_path / "user.yaml"
        # as in the recipes: a base in `small` follows a method, one in a folder of a plugin follows the plugin's own
        of, plugin, *_ = path.relative_to(ROOT).parts
        method = ["cluster_contrast::usl.yaml"] if "small" in path.parts else []
        if of == "plugins" and path.parent.name != "configs":
            method = [f"{plugin}::uda.yaml"]
        bases = [*method, str(path)]
        tree = load_tree(write_experiment(tmp_path / "bases.yaml", {"_base_": bases})).data
        brought: dict[str, Any] = {"_base_": bases, "name": "x"}
        if plugin not in ("clip_reid", "vit_reid"):  # whose heads take tokens of the backbones that they bring
            brought["model"] = {"backbone": {"type": "Timm", "name": "test_vit"}}
        if "stages" not in tree:
            brought["stages"] = [{"name": "only", "epochs": 0}]
        given = tree.get("data", {}).get("domains", {})
        drawn = [stream["domain"] for stream in tree.get("streams", {}).values() if "domain" in stream]
        mine = {name: {"type": "Market1501", "root": "."} for name in {"source", "target", *drawn} - set(given)}
        brought["data"] = {"domains": mine}
        assert reidx.load_config(write_experiment(user, brought)).experiment.name == "x"


def test_data_paths_are_relative_to_working_directory(load, tmp_path):
    """As in a shell: a config may be inside a package, which never contains data."""
    config = load(more="evaluate: {domain: target}\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "moved.yaml").write_text((tmp_path / "exp.yaml").read_text(), encoding="utf-8")
    assert reidx.load_config("configs/moved.yaml").data == config.data
    code = (
        "import sys, reidx\nfrom reidx.data.domains import Domains\n"
        "c = reidx.load_config('configs/moved.yaml', ['data.domains.target.root=here/target'])\n"
        "print(Domains(c.data['data'])['target'].root)"
    )
    draw_domains(tmp_path / "here", identities=(2, 2), images_per_camera=2, cameras=2)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "here/target"


# ---- differences from the defaults


def test_changed_values_come_from_files_and_overrides(load):
    text = load("evaluate.flip=true").render(changed=True)
    assert "flip: true" in text
    assert "# --set" in text
    assert "exp.yaml:" in text
    assert "default" not in text and "grad_cache_chunks" not in text


OVERRIDES = ([], ["stages.first.alignment=null"], ["labels.labellings={main: {}, other: {flip: true}}"])


@pytest.mark.parametrize("override", OVERRIDES)
def test_changed_values_load_as_the_same_experiment(load, tmp_path, override):
    whole = load(*override)
    (tmp_path / "changed.yaml").write_text(whole.render(changed=True), encoding="utf-8")
    assert reidx.load_config(tmp_path / "changed.yaml").hash == whole.hash
    assert len(whole.render(changed=True).splitlines()) < len(whole.render().splitlines())


def test_overrides_as_one_string_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        reidx.load_config("reidx::demo.yaml", "seed=2")
    assert str(caught.value) == "The overrides are a string; give a list: ['seed=2']."


def test_advice_to_add_a_key_can_be_followed(load):
    with pytest.raises(ConfigError, match=r"write \+optimization\.rates\.backbone=\.\.\.$"):
        load("optimization.rates.backbone=0.1")
    assert load("+optimization.rates.backbone=0.1").data["stages"][0]["optimization"]["rates"] == {"backbone": 0.1}
    for path in ("model.freeze.hooks", "clip_grad.hooks", "stages.first.clip_grad.hooks", "hooks", "data.hooks"):
        with pytest.raises(ConfigError) as error:
            load(f"{path}=1")
        assert "write +" not in str(error.value)
