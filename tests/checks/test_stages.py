"""Incompatible parts of a stage: one sentence names the place, the mistake and the components that would fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import reidx
from reidx.contracts import INPUTS
from reidx.errors import ConfigError, PluginError
from reidx.evaluation import Protocol
from reidx.testing.tiny import tiny_experiment, write_experiment

ROWS = {"memory": "LinearClassifier"}
TERM = {"loss": "CrossEntropy", "memory": "rows"}
SHUFFLE = {"type": "Shuffle", "batch": 8}


class Views:
    """Fusion of two halves."""

    provides = frozenset({"embed", "upper", "lower"})

    def __init__(self, in_channels: int) -> None: ...

    def forward(self, maps): ...


class HalvesJaccard:
    """Distance of two views."""

    requires = frozenset({"upper", "lower"})


class NeedsUpper(nn.Module):
    """Alignment of one view."""

    requires = frozenset({"upper"})


class Singletons:
    """Refiner that makes a cluster of each outlier."""

    outliers = "never"


class KeepsAll:
    """Memory with a class for each outlier."""

    outliers = "keep"

    def __init__(self, dim: int) -> None: ...


class Greedy(nn.Module):
    """Loss with an input that nothing provides."""

    def forward(self, features: Tensor, colours: Tensor) -> Tensor:
        return features.sum() + colours.sum()


class Distil(nn.Module):
    """Loss against a teacher."""

    def forward(self, features: Tensor, teacher: Tensor) -> Tensor:
        return (features - teacher).square().mean()


class Soft(nn.Module):
    """Loss on soft targets."""

    def forward(self, scores: Tensor, soft_targets: Tensor) -> Tensor:
        return (scores * soft_targets).sum()


@pytest.fixture
def refused(tmp_path: Path, register: Callable[[str, type], None]) -> Callable[..., str]:
    """Return the message for a tiny experiment with changed top-level keys, or "" if it is accepted."""
    for kind, part in (("fusion", Views), ("distance", HalvesJaccard), ("alignment", NeedsUpper), ("refiner", Singletons),
                       ("memory", KeepsAll), ("loss", Greedy), ("loss", Distil), ("loss", Soft)):  # fmt: skip
        register(kind, part)

    def refused(**changes: Any) -> str:
        experiment = tiny_experiment("nowhere", **changes)
        path = write_experiment(tmp_path / "exp.yaml", {k: v for k, v in experiment.items() if v is not None})
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            reidx.load_config(path)
        except (ConfigError, PluginError) as error:
            text = str(error)
            if isinstance(error, ConfigError):  # the message names the line of the file that it is about
                place, _, message = text.partition(": ")
                assert place.startswith(f"{path}:"), text
                number = int(place.rpartition(":")[2])
                assert 1 <= number <= len(lines)
                text = f"{lines[number - 1].strip(' -')} | {message}"
            return text
        return ""

    return refused


def stream(**changes: Any) -> dict[str, Any]:
    sampler = {"type": "PK", "identities": 4, "instances": 2}
    return {"target": {"domain": "target", "labels": "main", "sampler": sampler, **changes}}


def labels(**changes: Any) -> dict[str, Any]:
    return {"domain": "target", "distance": {"type": "Jaccard", "k1": 8, "k2": 2}, **changes}


def test_unchanged_experiment_is_accepted(refused):
    assert refused() == ""
    assert refused(streams=stream(), labels=labels(), memories={"rows": ROWS}, objective=[TERM]) == ""


# ---- named inputs


class ClothesDistance:
    """Distance with an input that nothing provides."""

    def __call__(self, features, *, clothes, within=1.0, spare=None): ...


class ClothesClusterer:
    """Clusterer with an input that nothing provides."""

    clusterer_input = "features"

    def __call__(self, features, clothes): ...


class ClothesMemory:
    """Memory with an input that nothing provides."""

    def __init__(self, dim: int) -> None: ...

    def reset(self, features, labels, clothes=None): ...

    def update(self, features, targets, index, clothes): ...


@pytest.mark.parametrize(
    ("kind", "part", "changes", "where", "method", "available"),
    [
        ("distance", ClothesDistance, {"labels": labels(distance="ClothesDistance")},
         "distance: ClothesDistance | stages.0.labels.labellings.main.distance", "__call__",
         "within, epoch, cameras, embed, global, pooled"),
        ("clusterer", ClothesClusterer, {"labels": labels(clusterer="ClothesClusterer")},
         "clusterer: ClothesClusterer | stages.0.labels.labellings.main.clusterer", "__call__", "cameras"),
        ("memory", ClothesMemory, {"memories": {"rows": {"memory": "ClothesMemory"}}},
         "memory: ClothesMemory | stages.0.memories.rows.memory", "update", "cameras"),
    ],
    ids=["distance", "clusterer", "memory"],
)  # fmt: skip
def test_named_input_that_nothing_provides(refused, register, kind, part, changes, where, method, available):
    register(kind, part)
    place = f"{__file__}:{getattr(part, method).__code__.co_firstlineno}"
    assert refused(**changes) == (
        f"{where}: {kind} {part.__name__} (from the test, {place}): its {method} takes 'clothes', which nothing here provides. "
        f"Available by name: {available}."
    )


class UpperRefiner:
    """Refiner with a feature and an optional one."""

    def __call__(self, labels, context, *, upper, lower=None, cameras=None): ...


class UpperDistance:
    """Distance with a feature and an optional one."""

    def __call__(self, features, *, upper, clothes=None): ...


@pytest.mark.parametrize("part", [UpperRefiner, UpperDistance])
def test_features_are_inputs_of_distances_and_refiners(refused, register, part):
    kind = part.__name__.removeprefix("Upper").lower()
    register(kind, part)
    changes = {"labels": labels(**({"refiners": [part.__name__]} if kind == "refiner" else {"distance": part.__name__}))}
    halves = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": "Views"}
    assert refused(model=halves, **changes) == ""
    known = "cameras, embed, global, pooled"
    assert refused(**changes).endswith(
        f"its __call__ takes 'upper', which nothing here provides. Available by name: "
        f"{'within, epoch, ' if kind == 'distance' else ''}{known}. Installed fusions that provide it: Views."
    )
    table = {"type": "CSV", "path": "t.csv", "columns": ["upper", "embed"]}  # no component takes `embed`
    assert refused(model=halves, data={"image_size": [48, 24], "domains": {"target": table}}, **changes).endswith(
        f"{part.__name__} takes 'upper', which fusion Views provides, but domain 'target' has a column of that name. "
        "Rename the column."
    )


# ---- matching


class Pairs:
    """Matcher that pairs clusters."""

    provides = frozenset({"other_labels"})

    def __init__(self, labellings: list[str], share: float = 0.5) -> None:
        if len(labellings) != 2:
            raise ValueError("it pairs two labellings")


class Greets:
    """Matcher that requires a feature, with an input by name and an array of another component's name."""

    requires = frozenset({"upper"})
    provides = frozenset({"clothes"})

    def __call__(self, labels, contexts, cameras): ...


class Shouts:
    """Matcher with an array of an engine's name."""

    provides = frozenset({"targets"})


class Rows:
    """Memory that is updated by labels."""

    def __init__(self, dim: int) -> None: ...

    def update(self, features, targets, index): ...


class ImageRows(Rows):
    """Memory with an entry for each image."""

    images = None


class CameraRows(Rows):
    """Memory that is updated by labels and cameras."""

    def update(self, features, targets, index, cameras=None): ...


class Across(nn.Module):
    """Loss that reads scores of another labelling's clusters."""

    def forward(self, scores: Tensor, other_labels: Tensor) -> Tensor: ...


LEVELS = labels(labellings={name: {"domain": "target"} for name in ("visible", "infrared", "thermal")})
PAIRS = {"matcher": "Pairs", "labellings": ["visible", "infrared"]}
MATCHED = {
    "streams": {name: {**stream()["target"], "labels": name} for name in ("visible", "infrared")},
    "labels": LEVELS,
    "memories": {"infrared_rows": {**ROWS, "labels": "infrared"}},
    "objective": [{"loss": "Across", "stream": "visible", "memory": "infrared_rows"}],
}


@pytest.fixture
def matchers(register):
    parts = {"matcher": (Pairs, Greets, Shouts), "loss": (Across,), "memory": (Rows, ImageRows, CameraRows)}
    for kind, classes in parts.items():
        for part in classes:
            register(kind, part)


@pytest.mark.usefixtures("matchers")
def test_loss_reads_scores_and_matches_of_another_labelling(refused):
    assert refused(**MATCHED, matching=[PAIRS]) == ""
    lacking = (
        "loss: Across | stages.0.objective.0: Across needs 'other_labels', which no refiner or matcher of stream 'visible' and "
        "no memory of the term provides. Installed that do: Pairs."
    )
    assert refused(**MATCHED) == lacking
    assert refused(**MATCHED, matching=[{**PAIRS, "labellings": ["infrared", "thermal"]}]) == lacking


@pytest.mark.usefixtures("matchers")
@pytest.mark.parametrize(
    ("memory", "matching", "message"),
    [
        ("Rows", PAIRS, ""),
        ("Rows", {**PAIRS, "labellings": ["infrared", "visible"]}, ""),
        ("Rows", {**PAIRS, "labellings": ["infrared", "thermal"]}, "'other_labels'. Installed matchers that do: Pairs."),
        ("ImageRows", PAIRS, "ImageRows is updated by more than labels: by positions or columns of its images."),
        ("CameraRows", PAIRS, "CameraRows is updated by more than labels: by positions or columns of its images."),
    ],
)
def test_matched_stream_updates_a_memory(refused, memory, matching, message):
    rows = {"memory": memory, "labels": "infrared", "stream": ["visible", "infrared"]}
    term = {"loss": "CrossEntropy", "stream": "infrared", "memory": "infrared_rows"}
    found = refused(**{**MATCHED, "memories": {"infrared_rows": rows}, "objective": [term]}, matching=[matching])
    assert found.endswith(message) and bool(found) == bool(message)
    if message:
        assert "stages.0.memories.infrared_rows.stream: stream 'visible' carries labels 'visible', the memory holds" in found


@pytest.mark.usefixtures("matchers")
@pytest.mark.parametrize(
    ("slot", "where", "message"),
    [
        ({"labellings": ["visible", "main"]}, "labellings", "there is no labelling called 'main'. There is: visible, infrared"),
        ({"labellings": ["visible"]}, "labellings", "a matcher compares different labellings: name two or more, each once."),
        ({"labellings": ["visible"] * 2}, "labellings", "a matcher compares different labellings: name two or more"),
        ({"matcher": "Greets"}, "matcher", "Greets needs 'upper', which fusion GlobalPool does not provide"),
        ({"matcher": "Shouts"}, "matcher", "Shouts provides 'targets', which is the name of something else."),
    ],
)
def test_matching_that_cannot_work(refused, slot, where, message):
    found = refused(**MATCHED, matching=[{**PAIRS, **slot}])
    assert message in found and f"matching.0.{where}" in found


@pytest.mark.usefixtures("matchers")
@pytest.mark.parametrize(
    ("slot", "message"),
    [
        ({"labellings": ["visible", "infrared", "thermal"]}, r"matching.0.matcher\): it pairs two labellings"),
        ({"matcher": {"type": "Pairs", "labellings": ["a", "b"]}}, "'labellings' .*is supplied by the experiment"),
        ({"matcher": {"type": "Pairs", "shares": 1.0}}, "unknown key 'shares' .*Did you mean share"),
    ],
)
def test_arguments_of_a_matcher_are_checked(tmp_path, slot, message):
    path = write_experiment(tmp_path / "exp.yaml", tiny_experiment("nowhere", **MATCHED, matching=[{**PAIRS, **slot}]))
    with pytest.raises(ConfigError, match=message):
        reidx.load_config(path)


@pytest.mark.usefixtures("matchers")
def test_matcher_gets_columns_in_its_contexts(refused):
    halves = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": "Views"}
    slot = {**PAIRS, "matcher": "Greets"}
    assert refused(**MATCHED, model=halves, matching=[slot]).endswith(
        "its __call__ takes 'cameras', which nothing here provides. Available by name: nothing."
    )


@pytest.mark.usefixtures("matchers", "wardrobe")
def test_arrays_of_a_matcher_have_new_names(refused, register):
    class Dresses(Pairs):
        """Matcher with an array of a column's name."""

        provides = frozenset({"clothes"})

    register("matcher", Dresses)
    slot = {"matcher": "Dresses", "labellings": ["visible", "infrared"]}
    tail = {key: value for key, value in MATCHED.items() if key != "labels"}
    dressed = [{**PAIRS}, slot]
    assert refused(**MATCHED, matching=dressed) == ""
    assert refused(**MATCHED, data=WARDROBE, matching=dressed).endswith("has a column of that name. Rename the column.")
    refined = {**LEVELS, "refiners": ["ClothesRefiner"]}
    assert refused(**tail, labels=refined, matching=dressed).endswith(
        "stages.0.matching.1.matcher: Dresses provides 'clothes' for labelling 'visible', but ClothesRefiner "
        "(labels.labellings.visible.refiners.0) provides it already. Remove one of them."
    )
    assert refused(**MATCHED, matching=[PAIRS, PAIRS]).endswith(
        "Pairs provides 'other_labels' for labelling 'visible', but Pairs (matching.0.matcher) provides it already. Remove one "
        "of them."
    )


# ---- columns of the data set


class Wardrobe:
    """Data set with a column."""

    columns = frozenset({"clothes"})


class ClothesLoss(nn.Module):
    """Loss with an input that a data set may provide."""

    def forward(self, features: Tensor, clothes: Tensor) -> Tensor: ...


class ClothesProtocol(Protocol):
    """Protocol with an input that a data set may provide."""

    def __init__(self) -> None: ...

    def ignored(self, query_ids, gallery_ids, query_cams, gallery_cams, *, query_clothes, gallery_clothes=None): ...  # type: ignore[override]


class ClothesReranker:
    """Re-ranker with an input that a data set may provide."""

    def __call__(self, query_features, gallery_features, *, query_cams=None, gallery_clothes): ...


class ClothesRefiner:
    """Refiner that provides an array with the name of a column."""

    provides = frozenset({"clothes"})


WARDROBE = {"image_size": [48, 24], "domains": {"target": "Wardrobe"}}
CLOTHES = {
    "labels": labels(distance="ClothesDistance", clusterer="ClothesClusterer"),
    "memories": {"rows": {"memory": "ClothesMemory"}},
    "objective": [{"loss": "ClothesLoss"}],
    "evaluate": {"domain": "target", "protocol": "ClothesProtocol", "rerank": "ClothesReranker"},
}


@pytest.fixture
def wardrobe(register):
    for kind, part in (("dataset", Wardrobe), ("distance", ClothesDistance), ("clusterer", ClothesClusterer),
                       ("memory", ClothesMemory), ("loss", ClothesLoss), ("protocol", ClothesProtocol),
                       ("refiner", ClothesRefiner), ("reranker", ClothesReranker)):  # fmt: skip
        register(kind, part)


@pytest.mark.usefixtures("wardrobe")
def test_columns_of_the_data_set_are_named_inputs(refused):
    assert refused(data=WARDROBE, **CLOTHES) == ""
    for key, value in CLOTHES.items():
        assert "clothes', which no" in refused(**{key: value})
    message = refused(evaluate=CLOTHES["evaluate"])
    assert message.startswith("protocol: ClothesProtocol | stages.0.evaluate.protocol: protocol ClothesProtocol (from the test")
    assert message.endswith("takes 'query_clothes', which nothing here provides. Available by name: nothing.")
    message = refused(evaluate={"domain": "target", "rerank": "ClothesReranker"})
    assert message.startswith("rerank: ClothesReranker | stages.0.evaluate.rerank: reranker ClothesReranker (from the test")
    assert message.endswith("'gallery_clothes', which nothing here provides. Available by name: query_cams, gallery_cams.")


@pytest.mark.usefixtures("wardrobe")
def test_refiner_must_not_provide_the_name_of_a_column(refused):
    changes = {"labels": labels(refiners=["ClothesRefiner"])}
    assert refused(**changes) == ""
    assert refused(data=WARDROBE, **changes).endswith(
        "stages.0.labels.labellings.main.refiners.0: ClothesRefiner provides 'clothes', but domain 'target' has a column of "
        "that name. Rename the column."
    )


@pytest.mark.parametrize("name", ["features", "within", "two words", "class", ""])
def test_column_must_be_usable_as_an_argument(refused, name):
    table = {"type": "CSV", "path": "t.csv", "columns": ["clothes", name]}
    message = refused(data={**WARDROBE, "domains": {"target": table}})
    assert message.startswith(f"target: | data.domains.target: a component gets the column {name!r} by an argument")


# ---- features


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"labels": labels(feature="upper")}, "feature: upper | stages.0.labels.labellings.main.feature"),
        ({"memories": {"rows": {**ROWS, "feature": "upper"}}}, "feature: upper | stages.0.memories.rows.feature"),
        ({"objective": [{**TERM, "feature": "upper"}]}, "feature: upper | stages.0.objective.0.feature"),
        ({"evaluate": {"domain": "target", "feature": "upper"}}, "feature: upper | stages.0.evaluate.feature"),
    ],
)
def test_feature_that_the_fusion_lacks(refused, changes, where):
    assert refused(**changes) == (
        f"{where}: fusion GlobalPool has no feature 'upper'; it provides embed, global, pooled. "
        "Installed fusions that do: Views."
    )


def test_feature_that_every_fusion_lacks(refused):
    assert refused(labels=labels(feature="aura")).endswith("it provides embed, global, pooled. No installed fusion does.")


def test_required_features_must_come_from_the_fusion(refused):
    message = refused(labels=labels(distance={"type": "HalvesJaccard"}))
    assert message == (
        "distance: | stages.0.labels.labellings.main.distance: HalvesJaccard needs 'lower', 'upper', which fusion GlobalPool "
        "does not provide (it provides embed, global, pooled). Installed fusions that do: Views."
    )
    model = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": {"type": "Views"}}
    assert refused(labels=labels(distance={"type": "HalvesJaccard"}), model=model) == ""


# ---- streams and labels


def test_unknown_names_suggest_the_nearest(refused):
    assert refused(streams=stream(domain="traget")) == (
        "domain: traget | stages.0.streams.target.domain: there is no domain in data.domains called 'traget'. "
        "Did you mean target?"
    )
    assert "labels: mian | stages.0.streams.target.labels: there is no labelling called 'mian'. Did you mean main?" in refused(
        streams=stream(labels="mian")
    )
    assert "there is no domain in data.domains called 'x'. There is: target." in refused(labels=labels(domain="x"))
    assert "there is no domain in data.domains called 'x'." in refused(evaluate={"domain": "x"})
    assert "network: peer | stages.0.evaluate.network: there is no network called 'peer'. There is: student." in refused(
        evaluate={"domain": "target", "network": "peer"}
    )
    assert "labels.labellings.main.network: there is no network called 'tutor'." in refused(labels=labels(network="tutor"))


def test_labels_of_another_domain(refused):
    data = tiny_experiment("nowhere")["data"]
    data["domains"]["other"] = {"type": "Market1501", "root": "."}
    assert refused(data=data, streams=stream(domain="other")) == (
        "labels: main | stages.0.streams.target.labels: labelling 'main' is of domain 'target', but the stream draws from "
        "'other'."
    )


def test_identities_of_two_domains(refused):
    data = tiny_experiment("nowhere")["data"]
    data["domains"]["other"] = {"type": "Market1501", "root": "."}
    target, other = stream(labels="identity")["target"], stream(labels="identity", domain="other")["target"]
    message = refused(data=data, streams={"target": target, "other": other})
    assert message == "streams: | stages.0.streams: one stage can use the identities of one domain, not of other and target."


def test_pk_without_labels(refused):
    assert refused(streams=stream(labels=None)) == (
        "sampler: | stages.0.streams.target.sampler: PK sampling needs labels; use Shuffle for an unlabelled stream."
    )


def test_labelling_needs_domain_distance_and_free_name(refused):
    assert "labels.labellings.main: domain is missing: name the domain to label." in refused(labels=labels(domain=None))
    assert "distance: null | stages.0.labels.labellings.main.distance: DBSCAN works on a graph; give a distance." in refused(
        labels=labels(distance=None)
    )
    assert refused(labels=labels(distance=None, clusterer={"type": "KMeans", "n_clusters": 5})) == ""
    assert "'identity' is reserved for the data set's own labels; rename the labelling." in refused(
        labels=labels(labellings={"main": {}, "identity": {}})
    )


# ---- memories and the objective


def test_memory_that_stays_empty_is_refused(refused):
    assert refused(memories={"rows": {**ROWS, "labels": "identity"}}) == (
        "labels: identity | stages.0.memories.rows.labels: no stream is labelled by 'identity', so this memory "
        "would stay empty."
    )
    # with a default label the message names the line of the memory
    assert refused(streams=stream(labels="identity")).startswith("rows: | stages.0.memories.rows.labels: no stream is labelled")


def test_memory_and_stream_have_the_same_labels(refused):
    streams = {**stream(), "second": stream(labels="identity")["target"]}
    memories = {"rows": ROWS, "ids": {**ROWS, "labels": "identity"}}
    assert refused(streams=streams, memories=memories, objective=[{**TERM, "stream": "second"}]) == (
        "memory: rows | stages.0.objective.0.memory: memory 'rows' holds labels 'main', stream 'second' carries 'identity'."
    )
    assert refused(streams=streams, memories=memories, objective=[{**TERM, "stream": "second", "memory": "ids"}]) == ""


def test_term_must_name_memory_or_teacher(refused):
    assert refused(objective=[{"loss": "CrossEntropy"}]) == (
        "loss: CrossEntropy | stages.0.objective.0: CrossEntropy compares with a memory: name it (memory: NAME)."
    )
    assert "there is no memory called 'row'. Did you mean rows?" in refused(objective=[{**TERM, "memory": "row"}])
    assert "Distil compares with a teacher: name it (teacher: NAME)." in refused(objective=[{"loss": "Distil"}])
    assert "there is no network called 'mean'. There is: student." in refused(objective=[{"loss": "Distil", "teacher": "mean"}])
    teachers = {"mean": {"type": "EMA"}}
    assert refused(objective=[{"loss": "Distil", "teacher": "mean"}], teachers=teachers) == ""


def test_term_must_name_one_of_several_streams(refused):
    streams = {**stream(), "second": stream()["target"]}
    assert "name its stream (stream: target or second)." in refused(streams=streams)
    assert "there is no stream called 'x'. There is: target." in refused(objective=[{**TERM, "stream": "x"}])


def test_term_needs_a_trained_network(refused):
    teachers = {"mean": {"type": "EMA"}, "peer": {"type": "Peer"}}
    assert "there is no network that is trained called 'mean'. There is: student, peer." in refused(
        teachers=teachers, objective=[{**TERM, "network": "mean"}]
    )
    assert refused(teachers=teachers, objective=[{**TERM, "network": "peer"}]) == ""


def test_loss_needs_labels_of_its_stream(refused):
    streams = {"target": {"domain": "target", "sampler": SHUFFLE}}
    assert refused(streams=streams, memories=None, objective=[{"loss": "Triplet"}]) == (
        "loss: Triplet | stages.0.objective.0: Triplet needs labels, but stream 'target' has none."
    )
    assert "Soft needs soft targets, which a refiner or a matcher gives." in refused(
        streams=stream(labels="identity"),
        memories={"rows": {**ROWS, "labels": "identity"}},
        objective=[{"loss": "Soft", "memory": "rows"}],
    )


def test_loss_with_unknown_input_blames_the_plugin(refused):
    place = f"{__file__}:{Greedy.forward.__code__.co_firstlineno}"
    assert refused(objective=[{"loss": "Greedy"}]) == (
        f"loss: Greedy | stages.0.objective.0: loss Greedy (from the test, {place}): its forward takes 'colours', which "
        f"nothing here provides. Available by name: {', '.join(INPUTS)}."
    )


class Painter:
    """Refiner that provides colours."""

    provides = frozenset({"colours"})


class Palette:
    """Memory that provides colours."""

    provides = frozenset({"colours"})
    images = Tensor()

    def __init__(self, dim: int) -> None: ...


def test_inputs_from_refiners_and_memories(refused, register):
    register("refiner", Painter)
    register("memory", Palette)
    greedy = {"loss": "Greedy"}
    assert refused(objective=[greedy]) == (
        "loss: Greedy | stages.0.objective.0: Greedy needs 'colours', which no refiner or matcher of stream 'target' and no "
        "memory of the term provides. Installed that do: Painter, Palette."
    )
    assert refused(objective=[greedy], labels=labels(refiners=[{"type": "Painter"}])) == ""
    assert refused(objective=[{**greedy, "memory": "p"}], memories={"p": {"memory": "Palette"}}) == ""
    assert "Greedy needs 'colours'" in refused(  # the term does not use the memory that provides them
        objective=[{**greedy, "memory": "rows"}], memories={"rows": ROWS, "p": {"memory": "Palette"}}
    )


# ---- several streams, several memories, another feature, views


def test_term_with_labels_unlike_its_stream(refused):
    means = {"type": "KMeans", "n_clusters": 8}
    levels = {"labellings": {"main": labels(distance=None, clusterer=means), "halves": labels(distance=None, clusterer=means)}}
    halves = {**TERM, "labels": "halves"}
    assert refused(labels=levels, objective=[{**halves, "labels": "havles"}]).startswith(
        "labels: havles | stages.0.objective.0.labels: there is no labelling called 'havles'"
    )
    assert refused(labels=levels, objective=[halves]) == (
        "memory: rows | stages.0.objective.0.memory: memory 'rows' holds labels 'main', the term's labels are 'halves'."
    )
    memories = {"rows": ROWS, "half_rows": {**ROWS, "labels": "halves"}}
    assert refused(labels=levels, memories=memories, objective=[TERM, {**halves, "memory": "half_rows"}]) == ""
    assert "no stream is labelled by 'halves', so this memory would stay empty" in refused(
        labels=levels, memories=memories, objective=[TERM]
    )
    still = {"rows": ROWS, "half_rows": {"memory": "KeepsAll", "labels": "halves"}}
    contrast = {"loss": "MemoryContrast", "memory": "half_rows", "labels": "halves"}
    message = refused(labels=levels, memories=still, objective=[TERM, contrast])
    assert message == (
        "labels: halves | stages.0.memories.half_rows.labels: no stream is labelled by 'halves', so KeepsAll would never "
        "be updated; terms with these labels do not update it."
    )
    levels["labellings"]["halves"] = labels()
    assert refused(labels=levels, memories=memories, objective=[TERM, {**halves, "memory": "half_rows"}]).endswith(
        "CrossEntropy has no target for outliers (label −1), which DBSCAN leaves and sampler PK of stream 'target' draws. Use "
        "a stream with the labels 'halves', or a clusterer that leaves none."
    )


def test_term_labels_must_cover_its_images(refused):
    both = {name: {"type": "Market1501", "root": "nowhere"} for name in ("source", "target")}
    levels = {"labellings": {"main": labels(), "theirs": labels(domain="source")}}
    message = refused(data={"image_size": [32, 16], "domains": both}, labels=levels, objective=[{**TERM, "labels": "theirs"}])
    assert message == (
        "labels: theirs | stages.0.objective.0.labels: labelling 'theirs' is of domain 'source', but stream 'target' draws "
        "from 'target'."
    )


def test_a_term_on_several_streams_and_memories(refused):
    streams = {**stream(), "second": stream(labels="identity")["target"]}
    memories = {"rows": ROWS, "ids": {**ROWS, "labels": "identity"}}
    both = {"stream": ["target", "second"], "memory": ["rows", "ids"]}
    assert refused(streams=streams, memories=memories, objective=[{**TERM, **both}]) == ""
    assert "there is no stream called 'thrid'" in refused(
        streams=streams, memories=memories, objective=[{**TERM, **both, "stream": ["target", "thrid"]}]
    )
    message = refused(streams=streams, memories=memories, objective=[{**TERM, "stream": "second", "memory": ["rows"]}])
    assert message.endswith("memory 'rows' holds labels 'main', stream 'second' carries 'identity'.")
    twice = {"rows": ROWS, "ids": ROWS}
    message = refused(streams=stream(), memories=twice, objective=[{**TERM, "memory": ["rows", "ids"]}])
    assert message.endswith("stream 'target' carries 'main'; exactly one of them must hold these.")


def test_teacher_side_and_epochs_of_terms(refused):
    distil = {"loss": "Distil", "teacher": "student"}
    assert refused(objective=[{**distil, "teacher_feature": "pooled"}]) == ""
    assert "has no feature 'upper'" in refused(objective=[{**distil, "teacher_feature": "upper"}])
    assert "there is no memory called 'x'" in refused(objective=[{**distil, "teacher_memory": "x"}])
    assert "the term ends before it begins (from_epoch 1)." in refused(objective=[{**TERM, "from_epoch": 1, "until_epoch": 1}])
    assert refused(objective=[{**TERM, "until_epoch": 1}, {**TERM, "from_epoch": 1}]) == ""
    assert "no term counts in epoch 1 (from 0), so nothing would be trained." in refused(objective=[{**TERM, "until_epoch": 1}])
    fine = {"rows": ROWS, "fine": {**ROWS, "labels": "fine"}}
    levels = labels(labellings={"main": {}, "fine": {}})
    streams = {**stream(), "other": stream(labels="fine")["target"]}
    term = {"loss": "Distil", "teacher": "student", "stream": "target"}
    message = refused(
        streams=streams, labels=levels, memories=fine, objective=[{**term, "memory": "rows", "teacher_memory": "fine"}]
    )
    assert message.endswith("it holds labels fine, but memory holds main: their scores have different classes.")


def test_incomparable_inputs_of_several_streams(refused, register):
    data = tiny_experiment("nowhere")["data"]
    data["domains"]["other"] = {"type": "Market1501", "root": "."}
    streams = {**stream(), "other": stream(labels="identity", domain="other")["target"]}
    both = {"stream": ["target", "other"]}
    given = {"data": data, "streams": streams}
    message = refused(**given, objective=[{**both, "loss": "Triplet"}])
    assert message.endswith(
        "Triplet would compare labels of different labellings; write a term for each stream, or use memories."
    )
    memories = {"rows": ROWS, "ids": {**ROWS, "labels": "identity"}}
    side_by_side = {**both, "memory": ["rows", "ids"]}
    assert refused(**given, memories=memories, objective=[{**side_by_side, "loss": "Triplet"}]) == ""

    class Indexed(nn.Module):
        """Loss that looks up images by index."""

        def forward(self, features: Tensor, index: Tensor) -> Tensor:
            return features.sum()

    class Softens:
        """Refiner that softens labels."""

        provides = frozenset({"soft_targets"})

    register("loss", Indexed)
    register("refiner", Softens)
    message = refused(**given, objective=[{**both, "loss": "Indexed"}])
    assert "Indexed reads 'index', which counts from 0 in each domain: write a term for each." in message
    softened = labels(refiners=[{"type": "Softens"}])
    message = refused(**given, labels=softened, memories=memories, objective=[{**side_by_side, "loss": "CrossEntropy"}])
    assert message.endswith(
        "CrossEntropy would mix soft targets of one labelling with labels of others: write a term for each."
    )
    soft = [{"loss": "Soft", "memory": "rows"}]
    assert refused(labels=softened, objective=soft) == ""
    assert "Soft needs 'soft_targets', which no refiner" in refused(objective=soft)


def test_names_in_a_list_come_once(refused):
    streams = {**stream(), "second": stream()["target"]}
    for changes in (
        {"objective": [{**TERM, "stream": ["target", "target"]}]},
        {"objective": [{**TERM, "stream": "target", "memory": ["rows", "rows"]}]},
        {"memories": {"rows": {**ROWS, "stream": []}}, "objective": [{**TERM, "stream": "target"}]},
    ):
        assert "the names in a list must be unique, and at least one is needed" in refused(streams=streams, **changes)


def test_the_streams_of_a_memory(refused):
    streams = {**stream(), "second": stream(labels="identity")["target"]}
    rows = {**ROWS, "stream": "target"}
    assert refused(streams=streams, memories={"rows": rows}, objective=[{**TERM, "stream": "target"}]) == ""
    message = refused(
        streams=streams, memories={"rows": {**ROWS, "stream": ["target", "second"]}}, objective=[{**TERM, "stream": "target"}]
    )
    assert "stream 'second' carries labels 'identity', the memory holds 'main'. It may update" in message


def test_views(refused):
    seen_again = stream(views={"again": {"type": "ReidAugment"}})
    assert "name its stream (stream: target or again)." in refused(streams=seen_again)
    assert refused(streams=seen_again, objective=[{**TERM, "stream": ["target", "again"]}]) == ""
    assert "'target' cannot be used as a name here" in refused(streams=stream(views={"target": {"type": "ReidAugment"}}))
    with pytest.raises(AssertionError, match=r"views.again.: unknown key 'flop'"):  # this message begins with the component
        refused(streams=stream(views={"again": {"type": "ReidAugment", "flop": 1}}))


def test_labelling_of_a_memory(refused, register):
    register("memory", Palette)
    memories = {"rows": ROWS, "all": {"memory": "Palette"}}
    assert refused(labels=labels(memory="all"), memories=memories) == ""
    assert "there is no memory called 'al'" in refused(labels=labels(memory="al"), memories=memories)
    assert "LinearClassifier does not hold an entry for each image, so it cannot be clustered." in refused(
        labels=labels(memory="rows"), memories=memories
    )
    message = refused(labels=labels(memory="all", feature="pooled"), memories=memories)
    assert message.endswith("memory 'all' holds feature 'embed', the labelling has feature 'pooled'.")
    data = tiny_experiment("nowhere")["data"]
    data["domains"]["other"] = {"type": "Market1501", "root": "."}
    streams = {**stream(), "other": stream(labels="identity", domain="other")["target"]}
    foreign = {"rows": ROWS, "all": {"memory": "Palette", "labels": "identity"}}
    message = refused(
        data=data, streams=streams, labels=labels(memory="all"), memories=foreign, objective=[{**TERM, "stream": "target"}]
    )
    assert message.endswith("memory 'all' holds images of 'other', the labelling is of 'target'.")


def test_a_batch_norm_for_each_domain(refused):
    model = {**tiny_experiment("nowhere")["model"], "domain_bn": True}
    assert refused(model=model) == ""
    data = tiny_experiment("nowhere")["data"]
    data["domains"]["other"] = {"type": "Market1501", "root": "."}
    message = refused(model=model, data=data, evaluate={"domain": "other"})
    assert "there is no domain that a stream draws from (model.domain_bn: one BatchNorm each) called 'other'" in message
    message = refused(model=model, joint=True)
    assert "one pass over all streams has one BatchNorm, but model.domain_bn requires several." in message
    one = {"epochs": 1, "iters": 1}
    source = {"other": stream(labels="identity", domain="other")["target"]}
    parts = {"labels": None, "memories": {"rows": {**ROWS, "labels": "identity"}}, "objective": [TERM]}
    before = {"name": "before", **one, **parts, "model": model, "streams": source, "evaluate": {"domain": "other"}}
    for its, lacking in ((model, "target"), ({**model, "domain_bn": False}, "all alike")):
        after = {"name": "after", **one, "init": "stage:before", "model": its}
        own = {key: tiny_experiment("nowhere")[key] for key in ("streams", "labels", "memories", "objective", "evaluate")}
        nothing = dict.fromkeys(own)
        message = refused(data=data, **nothing, stages=[before, {**own, **after}])
        assert f"stage:before has a BatchNorm for each of other, none for {lacking}." in message


def test_optimiser_state_comes_from_an_earlier_stage(refused):
    one = {"epochs": 1, "iters": 1}
    adam = {"type": "Adam", "lr": 1e-3}

    def second(state_from: str, **changes: Any) -> str:
        own = {"optimizer": {**adam, **changes}, "optimization": {"state_from": state_from}}
        return refused(stages=[{"name": "a", **one}, {"name": "b", **own, **one}])

    assert second("stage:a") == ""
    place = "state_from: {} | stages.1.optimization.state_from: "
    assert second("stage:b") == (
        place.format("stage:b") + "there is no stage that trains before this one called 'b'. There is: a."
    )
    assert second("a") == (
        place.format("a") + "the optimiser's state comes from a stage: write stage:a, if that is its name."
    )
    for other in ({"type": "SGD"}, {"amsgrad": True}):
        assert second("stage:a", **other) == (
            place.format("stage:a") + f"{other.get('type', 'Adam')} cannot start from the state of another optimiser (Adam)."
        )


def test_nothing_to_train_on_or_for(refused):
    assert "a stage that trains needs at least one stream." in refused(streams={})
    assert "a stage that trains needs at least one term." in refused(objective=[])
    assert "no term begins within the stage's 2 epochs (from_epoch counts from 0)." in refused(
        objective=[{**TERM, "from_epoch": 2}]
    )
    assert refused(objective=[{**TERM, "from_epoch": 1}]) == ""
    assert refused(stages=[{"name": "direct", "epochs": 0}], streams=None, labels=None, memories=None, objective=None) == ""


def test_clipping_to_nothing(refused):
    assert "stages.0.clip_grad: gradients clipped to 0 change no weight;" in refused(clip_grad=0)
    assert refused(clip_grad=0.1) == ""


# ---- outliers


def test_outliers_must_not_reach_cross_entropy(refused):
    shuffled = stream(sampler=SHUFFLE)
    assert refused(streams=shuffled) == (
        "loss: CrossEntropy | stages.0.objective.0: CrossEntropy has no target for outliers (label −1), which DBSCAN leaves "
        "and sampler Shuffle of stream 'target' draws. Use PK, or a clusterer that leaves none."
    )
    assert refused(streams=shuffled, labels=labels(clusterer={"type": "KMeans", "n_clusters": 5})) == ""
    assert refused(streams=shuffled, labels=labels(refiners=[{"type": "Singletons"}])) == ""
    assert refused(streams=shuffled, memories={"rows": {"memory": "KeepsAll"}}) == ""


# ---- teachers, alignments, stages, names


def test_teachers(refused):
    assert "'student' cannot be used as a name here" in refused(teachers={"student": {"type": "EMA"}})
    assert "there is no network to follow called 'peers'. Did you mean peer?" in refused(
        teachers={"peer": {"type": "Peer"}, "mean": {"type": "EMA", "of": "peers"}}
    )
    assert "there is no network to follow called 'mean'. There is: student." in refused(
        teachers={"mean": {"type": "EMA", "of": "mean"}}
    )
    place = "weights: stage:before | stages.0.teachers.old.weights: "
    assert place + "there is no stage that trains before this one called 'before'." in (
        refused(teachers={"old": {"type": "Frozen", "weights": "stage:before"}})
    )


def test_alignments(refused):
    assert "there is no stream called 'source'. There is: target." in refused(alignment=[{"alignment": "NeedsUpper"}])
    sides = {"source": "target", "target": "target"}
    assert "source and target are both 'target'" in refused(alignment=[{**sides, "alignment": "NeedsUpper"}])
    twice = {"streams": stream(views=VIEWS), "memories": {"rows": ROWS}, "objective": [{**TERM, "stream": "target"}]}
    sides["source"] = "second"
    assert "NeedsUpper needs 'upper', which fusion GlobalPool does not provide" in refused(
        **twice, alignment=[{**sides, "alignment": "NeedsUpper"}]
    )


def test_stages(refused):
    one = {"epochs": 1, "iters": 1}
    assert refused(stages=[{"name": "a", **one}, {"name": "a", **one}]) == (
        "name: a | there is a stage called 'a' already; rename one."
    )
    assert "there is no stage that trains before this one called 'b'. There is: a." in refused(
        stages=[{"name": "a", **one}, {"name": "c", "init": "stage:b", **one}]
    )
    itself = refused(stages=[{"name": "a", "init": "stage:a", **one}])
    assert "there is no stage that trains before this one called 'a'." in itself
    assert refused(stages=[{"name": "a", **one}, {"name": "b", "init": "stage:a", **one}]) == ""
    for name in ("", "..", "a/b", " a", "-a"):
        assert "it names a folder" in refused(stages=[{"name": name, **one}])


@pytest.mark.parametrize("name", ["keys", "a.b", "train", ""])
def test_invalid_module_names_are_refused(refused, name):
    message = refused(memories={name: ROWS}, objective=[{"loss": "CrossEntropy", "memory": name}])
    assert f"{name!r} cannot be used as a name here; choose another, of letters, digits, _ and -." in message


# ---- a fusion that works on a teacher's map


class Taught(nn.Module):
    """Fusion that works on two maps."""

    provides = frozenset({"embed"})

    def __init__(self, in_channels: int) -> None:
        super().__init__()

    def forward(self, maps, teacher):
        return maps, teacher


def test_fusion_that_needs_a_missing_teacher(refused, register):
    register("fusion", Taught)
    model = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": {"type": "Taught"}}
    assert refused(model=model) == (
        "fusion: | stages.0.model.fusion: Taught needs the map of a teacher; add one to the stage: "
        "teachers: {mean: {type: EMA}}."
    )
    assert refused(model=model, teachers={"mean": {"type": "EMA"}}) == ""
    assert refused(model=model, teachers={"mean": {"type": "Frozen", "weights": "x.pth"}}) != ""


def test_unknown_names_are_refused_even_if_unused(refused):
    triplet = {"loss": "Triplet", "feature": "pooled"}
    assert "no memory called 'rwos'. Did you mean rows?" in refused(objective=[{**triplet, "memory": "rwos"}])
    assert "no network called 'maen'" in refused(
        objective=[{**triplet, "teacher": "maen"}], teachers={"mean": {"type": "EMA"}}
    )


def test_untrained_stage_cannot_initialise_another(refused):
    stages = [{"name": "look", "epochs": 0}, {"name": "adapt", "epochs": 1, "iters": 1, "init": "stage:look"}]
    assert "there is no stage that trains before this one called 'look'" in refused(stages=stages)


# ---- streams of each network


PEERS = {"peer": {"type": "Peer"}, "mean": {"type": "EMA"}}
VIEWS = {"second": {"type": "ReidTest"}}


def test_network_streams_must_exist_and_fit_terms(refused):
    twice = {"streams": stream(views=VIEWS), "memories": {"rows": ROWS}}
    first = {**TERM, "stream": "target"}
    same = {"student": ["target"], "mean": ["target"]}
    assert refused(**twice, teachers=PEERS, objective=[first], network_streams=same) == ""
    for streams, message in (
        ({"other": ["target"]}, "no network called 'other'"),
        ({"peer": ["third"]}, "no stream called 'third'"),
        ({"peer": ["target", "target"]}, "the names in a list must be unique"),
        ({"student": ["second"]}, "network 'student' sees second (network_streams), not 'target'"),
    ):
        assert message in refused(**twice, teachers=PEERS, objective=[first], network_streams=streams)
    assert "leave out `joint` or `network_streams`." in refused(
        **twice, teachers=PEERS, objective=[first], network_streams={"peer": ["second"]}, joint=True
    )
    held = {"memories": {"rows": {**ROWS, "network": ["student", "mean"]}}, "streams": stream(views=VIEWS)}
    apart = {"student": ["target"], "mean": ["second"]}
    assert refused(**held, teachers=PEERS, objective=[first], network_streams=apart) == ""  # a classifier stores no features


def test_networks_of_a_memory_share_a_stream(refused, register):
    class Moves(KeepsAll):
        def update(self, features, targets, index): ...

    register("memory", Moves)
    message = refused(
        streams=stream(views=VIEWS), teachers=PEERS, network_streams={"student": ["target"], "mean": ["second"]},
        memories={"rows": ROWS, "still": {"memory": "Moves", "network": ["student", "mean"]}},
        objective=[{**TERM, "stream": "target"}],
    )  # fmt: skip
    assert message == (
        "network: | stages.0.memories.still.network: no stream of its labels is seen by all of these (network_streams): this "
        "memory would never be updated."
    )


def test_teacher_stream_must_show_the_same_images(refused):
    base = {"streams": {**stream(views=VIEWS), "plain": {"domain": "target", "sampler": SHUFFLE}}, "teachers": PEERS}
    term = {"loss": "Distil", "stream": "target", "teacher": "mean"}
    assert refused(**base, objective=[{**term, "teacher_stream": "second"}]) == ""
    for change, message in (
        ({"teacher_stream": "plain"}, "plain does not show the images of target"),
        ({"teacher_stream": ["second", "target"]}, "second, target does not show the images of target"),
        ({"teacher_stream": "sceond"}, "Did you mean second?"),
        ({"teacher_stream": "second", "teacher": None}, "a teacher's stream needs a teacher: name it"),
    ):
        assert message in refused(**base, objective=[{**term, **change}])
    assert "network 'mean' sees target (network_streams), not 'second'" in refused(
        **base, objective=[{**term, "teacher_stream": "second"}], network_streams={"mean": ["target"]}
    )


def test_circular_averages_are_refused(refused):
    circle = {"a": {"type": "EMA", "of": "b"}, "b": {"type": "EMA", "of": "a"}}
    assert "'a' would follow 'b', which follows it" in refused(teachers=circle, memories={"rows": ROWS}, objective=[TERM])


def test_networks_of_a_labelling_must_exist(refused):
    both = {"teachers": PEERS, "memories": {"rows": ROWS}, "objective": [TERM]}
    assert refused(labels=labels(network=["mean", "peer"]), **both) == ""
    assert "no network called 'men'" in refused(labels=labels(network=["men", "peer"]), **both)
    assert "names in a list must be unique" in refused(labels=labels(network=["mean", "mean"]), **both)


def test_domain_probe_needs_two_domains(refused):
    message = refused(evaluate={"domain": "target", "domain_probe": "embed"})
    assert "it separates two domains, but the stage draws from target" in message


# ---- meaning of the columns of scores, and parts


class Slots(Palette):
    """Memory with a column for each image."""

    column_meaning = "images"


class Proxies(Palette):
    """Memory whose columns are proxies, and which accepts parts."""

    column_meaning = "proxies"
    accepts_parts = frozenset({"features"})


class Compare(nn.Module):
    """Loss that reads columns as proxies."""

    column_meaning = "proxies"
    accepts_parts = frozenset({"scores"})

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor: ...


class Pull(nn.Module):
    """Loss that reads columns as images."""

    column_meaning = "images"

    def forward(self, scores: Tensor, index: Tensor) -> Tensor: ...


class Flatten(nn.Module):
    """Loss that gives columns no meaning."""

    def forward(self, scores: Tensor) -> Tensor: ...


class Halves(Views):
    """Fusion with two halves in one feature."""

    provides = frozenset({"embed", "halves"})
    part_features = frozenset({"halves"})


class HalfMemory(Palette):
    """Memory that requires parts."""

    requires_parts = frozenset({"features"})


class HalfLoss(nn.Module):
    """Loss that requires parts."""

    requires_parts = frozenset({"scores"})

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor: ...


INSTANCES = {"clusterer": {"type": "Instances"}}


def test_columns_of_scores_must_have_one_meaning(refused, register):
    for kind, part in (("memory", Slots), ("memory", Proxies), ("loss", Compare), ("loss", Pull), ("loss", Flatten)):
        register(kind, part)

    def wired(loss: str, memory: str, **level: Any) -> str:
        return refused(memories={"m": {"memory": memory}}, objective=[{"loss": loss, "memory": "m"}], labels=labels(**level))

    assert wired("CrossEntropy", "Slots") == (
        "loss: CrossEntropy | stages.0.objective.0: memory 'm' (Slots) has a column for each image, but labels 'main', which "
        "CrossEntropy finds its targets by, are the clusters of DBSCAN. Clusterers that number images: Instances."
    )
    for loss in ("CrossEntropy", "Pull"):  # with one class per image, both meanings are the same
        assert wired(loss, "Slots", **INSTANCES) == wired(loss, "LinearClassifier", **INSTANCES) == ""
    assert wired("Pull", "Slots") == ""
    assert wired("Pull", "LinearClassifier").endswith(
        "Pull reads columns of scores as images, those of memory 'm' (LinearClassifier) are labels. Installed memories of "
        "images: Slots; losses for labels: CrossEntropy, Flatten, MemoryContrast, Soft."
    )
    assert wired("CrossEntropy", "Proxies").endswith(
        "CrossEntropy reads columns of scores as labels, those of memory 'm' (Proxies) are proxies. Installed memories of "
        "labels: KeepsAll, LinearClassifier; losses for proxies: Compare."
    )
    assert "reads columns of scores as proxies, those of memory 'm' (LinearClassifier) are labels." in wired(
        "Compare", "LinearClassifier"
    )
    assert "those of memory 'm' (Proxies) are proxies" in wired("Pull", "Proxies", **INSTANCES)
    assert wired("Compare", "Proxies") == wired("Flatten", "Proxies") == wired("Flatten", "Slots") == ""
    own = {"memories": {"m": {"memory": "Slots", "labels": "identity"}}, "streams": stream(labels="identity")}
    assert "labels 'identity', which CrossEntropy finds its targets by, are identities." in refused(
        **own, labels={}, objective=[{**TERM, "memory": "m"}]
    )


def test_features_of_parts_need_accepting_components(refused, register):
    for kind, part in (("fusion", Halves), ("memory", HalfMemory), ("memory", Slots), ("memory", Proxies),
                       ("loss", HalfLoss), ("loss", Compare)):  # fmt: skip
        register(kind, part)
    halves = {"model": {**tiny_experiment("nowhere")["model"], "fusion": "Halves"}}

    def wired(loss: str, memory: str, feature: str, **model: Any) -> str:
        term = {"loss": loss, "memory": "m", "feature": feature}
        return refused(memories={"m": {"memory": memory, "feature": feature}}, objective=[term], **model)

    assert wired("CrossEntropy", "HalfMemory", "embed") == (
        "feature: embed | stages.0.memories.m.feature: HalfMemory takes features of parts, but 'embed' of fusion GlobalPool is "
        "one vector per image; of parts it has none. Installed fusions that have: Halves."
    )
    assert "of parts it has halves." in wired("CrossEntropy", "HalfMemory", "embed", **halves)
    assert "stages.0.objective.0: HalfLoss takes scores of parts, but 'embed'" in wired("HalfLoss", "LinearClassifier", "embed")
    assert wired("Triplet", "HalfMemory", "halves", **halves).endswith(
        "stages.0.objective.0: Triplet takes no features of parts, but 'halves' of fusion Halves has a vector for each (B,P,D)."
    )
    assert "memories.m.feature: Slots takes no features of parts" in wired("CrossEntropy", "Slots", "halves", **halves)
    for loss, memory in (("CrossEntropy", "HalfMemory"), ("HalfLoss", "LinearClassifier"), ("Compare", "Proxies")):
        assert wired(loss, memory, "halves", **halves) == ""
    assert wired("Compare", "Proxies", "embed") == wired("CrossEntropy", "LinearClassifier", "embed") == ""
    distil = {"loss": "Distil", "teacher": "student", "feature": "embed", "teacher_feature": "halves"}
    assert "Distil takes no teacher of parts" in refused(
        memories={"rows": ROWS}, objective=[distil], **halves
    )


def test_refiner_needs_a_setting_of_the_clusterer(refused, register):
    class Wavering:
        """Refiner that clusters at another eps with any clusterer."""

        def variations(self, clusterer: Any) -> list[dict[str, float]]:
            return [{"eps": 0.5}]

    register("refiner", Wavering)
    refiners = {"refiners": [{"type": "Wavering"}]}
    assert refused(labels=labels(**refiners)) == ""
    assert refused(labels=labels(clusterer={"type": "AdaptiveDBSCAN"}, **refiners)) == (
        "type: Wavering | stages.0.labels.labellings.main.refiners.0: Wavering requests labels of AdaptiveDBSCAN at another "
        "eps, a setting that it does not have."
    )


class Measured(Protocol):
    """Protocol with a metric."""

    metrics = ("seed",)

    def __init__(self) -> None:
        super().__init__("measured", "1", camera_filter=False)

    def measure(self, distances, ignored, query_ids, gallery_ids, query_cams, gallery_cams): ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (("rank-1", "seed"), "its `metrics` name 'seed', which is another column in tables of results"),
        (("last x",), "its `metrics` name 'last x', which is another column"),
        (("AP", "AP"), "its `metrics` name one twice: AP, AP"),
        (("AP@1", "CMC", "AP_1"), "its `metrics` name 'AP@1' and 'AP_1', which have the same name in files: rename one"),
        (("mAP@5", "map@5"), "its `metrics` name 'mAP@5' and 'map@5', which have the same name in files"),
        (("mAP_sd",), "its `metrics` name 'mAP_sd'; a name is"),
        (("reranked_mAP",), "its `metrics` name 'reranked_mAP'; a name is"),
        ((), "it has `measure`, but `metrics` names none, so that nothing would be measured"),
    ],
)
def test_metrics_of_a_protocol_are_checked(register, experiment, monkeypatch, metrics, message):
    register("protocol", Measured)
    monkeypatch.setattr(Measured, "metrics", metrics)
    with pytest.raises(RuntimeError, match=rf"protocol Measured .*contract in its metrics: {message}"):
        reidx.load_config(experiment(evaluate={"domain": "target", "protocol": "Measured"}))


@pytest.mark.parametrize("column", ["cams", "ids", "cameras"])
def test_column_must_not_have_the_name_of_another_input(register, refused, column):
    register("dataset", type("Wardrobe", (Wardrobe,), {"columns": (column,)}))
    assert f"the column '{column}' by an argument of that name" in refused(data=WARDROBE)


class ClothesFusion(nn.Module):
    """Fusion with an optional input that a data set may provide."""

    provides = frozenset({"embed", "global"})

    def forward(self, maps: Tensor, clothes: Tensor | None = None) -> Any: ...


@pytest.mark.usefixtures("wardrobe")
@pytest.mark.parametrize("joint", [False, True])
def test_column_of_one_domain_gets_lost_in_a_joint_pass(register, refused, joint):
    register("fusion", ClothesFusion)
    data = {"image_size": [48, 24], "domains": {"target": "Wardrobe", "source": {"type": "Market1501", "root": "nowhere"}}}
    changes = {
        "model": {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": "ClothesFusion"},
        "streams": {**stream(), "other": {"domain": "source", "sampler": SHUFFLE}},
        "objective": [{**TERM, "stream": "target"}],
        "joint": joint,
    }
    message = "fusion ClothesFusion takes 'clothes', which domain 'target' has, but not all domains of the streams"
    assert (message in refused(data=data, **changes)) == joint


# ---- settings without effect


class Marked(nn.Module):
    """Backbone with the tokens that its argument lists."""

    out_channels, nonnegative = 3, False

    def __init__(self, tokens: tuple[str, ...] = (), registers: int = 0) -> None: ...

    @staticmethod
    def contract(tokens: tuple[str, ...] = (), registers: int = 0, **_: Any) -> dict[str, Any]:
        return {"provides": {*tokens, *(["register_tokens"] if registers else [])}}


class OfClassToken(nn.Module):
    """Fusion of the class token and, if there are any, the registers."""

    provides = frozenset({"embed"})

    def __init__(self, in_channels: int) -> None: ...

    def forward(self, maps: Tensor, class_token: Tensor, register_tokens: Tensor | None = None) -> Any: ...


def test_tokens_that_the_fusion_does_not_take(refused, register):
    register("backbone", Marked)
    register("fusion", OfClassToken)
    vit = {"type": "Timm", "name": "vit_small_patch16_224", "tokens": ["class_token"]}
    message = refused(model={"backbone": vit}).partition(" | ")
    assert "token" in message[0] and message[2] == (
        "stages.0.model.backbone.tokens: Timm provides 'class_token', which fusion GlobalPool does not take: it has no effect. "
        "Remove it, or set a fusion that takes it: ClassToken, OfClassToken."
    )
    distilled = {"type": "Timm", "name": "deit_tiny_distilled_patch16_224", "tokens": ["class_token", "distillation_token"]}
    assert "Timm provides 'distillation_token', which fusion ClassToken does not take" in refused(
        model={"backbone": distilled, "fusion": "ClassToken"}
    )
    asked = {"type": "Marked", "tokens": ["class_token", "register_tokens"]}
    assert refused(model={"backbone": asked, "fusion": "OfClassToken"}) == ""
    assert "Marked provides 'register_tokens'" in refused(model={"backbone": asked, "fusion": "ClassToken"})
    # registers that are no answer to `tokens` may change the other tokens
    assert refused(model={"backbone": {**asked, "tokens": ["class_token"], "registers": 2}, "fusion": "ClassToken"}) == ""


def test_ramp_that_never_changes_the_weight(refused):
    flat = {"epochs": 3, "from": 0.5, "to": 0.5, "from_epoch": 1}
    message = "weight: | stages.0.objective.0.weight: it goes from 0.5 to 0.5, so it never changes: write weight: 0.5, or other"
    assert refused(objective=[{**TERM, "weight": flat}]).startswith(message)
    assert refused(objective=[{**TERM, "weight": {**flat, "to": 0.6}}]) == ""
    both = {
        "data": {"domains": {name: {"type": "Market1501", "root": "nowhere"} for name in ("source", "target")}},
        "streams": {name: {"domain": name, "sampler": SHUFFLE} for name in ("source", "target")},
        "labels": None, "memories": None,
        "objective": [{"loss": "Distil", "teacher": "student", "stream": "source"}],
    }  # fmt: skip
    aligned = {"alignment": "CORAL"}
    assert refused(**both, alignment=[aligned]) == ""
    message = refused(**both, alignment=[{**aligned, "weight": {"epochs": 2, "to": 0}}])
    assert "alignment.0.weight: it goes from 0 to 0, so it never changes: write weight: 0, or other" in message
