"""Settings survive their file, and a wrong line is answered in one sentence."""

import dataclasses

import pytest

from headwater import runfolder, settings
from headwater.errors import InputError
from headwater.settings import Settings, change, from_dict, to_dict


def test_round_trip_through_a_file(tmp_path):
    told = change(change(Settings(seed=3, budget=7.5), "views.crop=16,24,8"), "backbone.family=vit")
    runfolder.write_json(tmp_path / "settings.json", to_dict(told))
    assert from_dict(Settings, runfolder.read_json(tmp_path / "settings.json")) == told


def test_all_parts_are_frozen():
    parts = [v for v in vars(settings).values() if isinstance(v, type) and dataclasses.is_dataclass(v)]
    assert len(parts) >= 5
    for part in parts:
        assert part.__dataclass_params__.frozen, part


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("pretrain.batch=4", ("pretrain", "batch"), 4),
        ("pretrain.learning_rate=1e-4", ("pretrain", "learning_rate"), 1e-4),
        ("views.rotation=10", ("views", "rotation"), 10.0),
        ("adapt.counts=1,2", ("adapt", "counts"), (1, 2)),
        ("adapt.counts=3", ("adapt", "counts"), (3,)),
        ("adapt.counts=(1, 2,)", ("adapt", "counts"), (1, 2)),
        ("adapt.counts=[1, 2]", ("adapt", "counts"), (1, 2)),
        ("views.mirror=", ("views", "mirror"), ()),
        (" backbone.family = vit", ("backbone", "family"), "vit"),
    ],
)
def test_a_line_changes_its_value_and_nothing_else(line, path, value):
    before = Settings()
    after = change(before, line)
    part = getattr(after, path[0])
    assert getattr(part, path[1]) == value and type(getattr(part, path[1])) is type(value)
    assert dataclasses.replace(after, **{path[0]: getattr(before, path[0])}) == before
    assert before == Settings()


@pytest.mark.parametrize(
    "line",
    [
        "pretrain.batch",
        "pretrain.bach=4",
        "pretran.batch=4",
        "pretrain=4",
        "pretrain.batch.size=4",
        "pretrain.batch=four",
        "pretrain.batch=4.5",
        "pretrain.batch=true",
        "pretrain.batch=",
        "pretrain.learning_rate=fast",
        "adapt.counts=one",
        "adapt.counts=1,,2",
        "adapt.counts=true",
        "pretrain.batch={}",
        "=4",
        ".=4",
    ],
)
def test_a_wrong_line_is_one_sentence_with_the_line_and_a_remedy(line):
    with pytest.raises(InputError) as caught:
        change(Settings(), line)
    said = str(caught.value)
    assert f"--set {line}" in said and "\n" not in said and len(said) < 300
    assert any(word in said for word in ("expected", "There are:", "has parts", "has no parts")), said


def test_the_names_that_exist_are_told():
    with pytest.raises(InputError, match=r"no setting 'bach'.*batch"):
        change(Settings(), "pretrain.bach=4")


def test_an_unknown_name_in_a_file_is_named():
    with pytest.raises(InputError, match=r"Pretrain has no setting 'stepps'.*steps"):
        from_dict(Settings, {"pretrain": {"stepps": 3}})


@pytest.mark.parametrize(
    "line",
    [
        "adapt.counts=1.5,2",
        "adapt.counts=0,1",
        "pretrain.batch=0",
        "pretrain.steps=-1",
        "adapt.batch=0",
        "precision=fp16",
        "backbone.patch=0",
        "views.crop=16.5,16,16",
        "pretrain.save=0",
        "pretrain.learning_rate=NaN",
    ],
)
def test_a_value_that_cannot_be_is_refused(line):
    with pytest.raises(InputError):
        change(Settings(), line)
