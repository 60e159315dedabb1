"""Reading files of weights: what is in them, and that nothing in them runs."""

import json

import numpy as np
import pytest
import torch
from foreign import Bomb
from safetensors.torch import save_file

from headwater.backbones.checkpoints import _Kind, _scalar, read
from headwater.errors import InputError


def test_tensors_by_dotted_name_and_all_else_as_words(tmp_path):
    a, b = torch.arange(6.0).view(2, 3), torch.ones(2, dtype=torch.bfloat16)
    optimizer = {"state": {0: {"exp_avg": a}}, "param_groups": [{"lr": 1.0}]}
    torch.save({"model": {"x.w": a, "deep": {"y": b}}, "optimizer": optimizer, "epoch": 4, "empty": {}}, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert set(found.tensors) == {"model.x.w", "model.deep.y"}
    assert torch.equal(found.tensors["model.x.w"], a) and found.tensors["model.deep.y"].dtype == torch.bfloat16
    assert found.words["epoch"] == 4 and found.config is None
    assert set(found.others) == {"optimizer", "epoch", "empty"}


@pytest.mark.parametrize("legacy", [False, True])
def test_both_pickled_forms_of_torch(legacy, tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read(tmp_path / "w.pth").tensors["w"], torch.ones(3))


def test_scalars_of_numpy_become_numbers(tmp_path):
    kinds = [
        np.float64(0.25),
        np.float32(-1.5),
        np.int64(-7),
        np.uint8(200),
        np.bool_(True),
        np.float16(2),
        np.dtype(">f8").type(3),
    ]
    torch.save({"w": torch.ones(1), "log": {"dice": kinds}}, tmp_path / "w.pth")
    found = read(tmp_path / "w.pth").words["log"]["dice"]
    assert found == [0.25, -1.5, -7, 200, True, 2.0, 3.0]
    assert [type(v) for v in found] == [float, float, int, int, bool, float, float]


def test_scalars_of_older_numpy(tmp_path):
    """numpy 1 wrote numpy.core where numpy 2 writes numpy._core."""
    torch.save({"w": torch.ones(1), "best": np.float64(0.5)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "w.pth").read_bytes()
    assert b"numpy._core.multiarray" in whole
    (tmp_path / "w.pth").write_bytes(whole.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read(tmp_path / "w.pth").words["best"] == 0.5


def test_scalars_written_on_a_machine_of_the_other_order_of_bytes():
    kind = _Kind("f8", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert _scalar(kind, np.array(3, ">f8").tobytes()) == 3
    for wrong in (_Kind("O8"), _Kind("V8"), _Kind("f8,O")):
        with pytest.raises(ValueError, match="no plain number"):
            _scalar(wrong, b"12345678")


@pytest.mark.parametrize("place", ["beside", "inside", "scalar"])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(place, legacy, tmp_path):
    witness = tmp_path / "it ran"
    bomb = Bomb(witness)
    content = {"beside": {"w": torch.ones(1), "x": bomb}, "inside": {"network_weights": {"w": bomb}}, "scalar": [bomb]}[place]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="system, which could run code when read, so it is not read"):
        read(tmp_path / "w.pth")
    assert not witness.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the bomb works where nobody takes care
    assert witness.exists()


def test_objects_and_arrays_of_numpy_are_refused(tmp_path):
    for content in (np.arange(3), np.array([object], dtype=object), torch.nn.Linear(1, 1)):
        torch.save({"w": torch.ones(1), "x": content}, tmp_path / "w.pth")
        with pytest.raises(InputError, match="so it is not read: save the weights alone"):
            read(tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_one_sentence(suffix, share, tmp_path):
    path = tmp_path / f"w{suffix}"
    state = {"a": torch.randn(40, 40), "b": torch.randn(40)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="fetch it again") as told:
        read(path)
    assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_noise_and_changed_bytes_never_end_in_anything_but_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    torch.save({"a": torch.randn(4, 4), "n": np.float64(1)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    whole = bytearray((tmp_path / "w.pth").read_bytes())
    for _ in range(150):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            changed[place] = rng.integers(256)
        (tmp_path / "c.pth").write_bytes(changed)
        try:
            read(tmp_path / "c.pth")
        except InputError as told:
            assert "\n" not in str(told)


def test_folders_and_wrong_things(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no weights: give the file itself"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no file of weights that can be read"):
        read(tmp_path / "notes.txt")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="split over several files"):
        read(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list"):
        read(tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="holds no weights"):
        read(tmp_path / "none.pth")


def test_the_settings_of_a_folder(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    assert read(tmp_path).config is None
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
    assert read(tmp_path).config == read(tmp_path / "model.safetensors").config == {"hidden_size": 3}
    for wrong, says in (("{", "no JSON"), ("[1]", "holds a list")):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(InputError, match=says):
            read(tmp_path)
