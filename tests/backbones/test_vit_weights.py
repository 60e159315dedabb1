"""ViTs of others compute the same here: transformers is the oracle."""

import pytest
import torch
from foreign import HEADS, PATCH, SIDE, WIDTH, hugging, images, timm_names
from safetensors import safe_open
from safetensors.torch import save_file

from headwater.backbones.loading import load
from headwater.errors import InputError

REGISTERS = "Dinov2WithRegistersModel"
MODELS = [
    ("ViTModel", {}),
    ("ViTModel", {"qkv_bias": False}),
    ("ViTModel", {"num_channels": 1, "image_size": (16, 24)}),
    ("Dinov2Model", {}),
    ("Dinov2Model", {"use_swiglu_ffn": True}),
    (REGISTERS, {}),
    (REGISTERS, {"use_swiglu_ffn": True, "num_register_tokens": 2}),
]


def same(ours, theirs, x, registers=0):
    """Tokens, class token, and the gradients of image and patch map of a random sum of both, to 1e-5."""
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    features, hidden = ours(mine), theirs(yours).last_hidden_state
    tokens, first = hidden[:, 1 + registers :], hidden[:, 0]
    torch.testing.assert_close(features.tokens, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.pooled, first, atol=1e-5, rtol=1e-5)
    draw = torch.Generator().manual_seed(2)
    a, b = torch.randn(tokens.shape, generator=draw), torch.randn(first.shape, generator=draw)
    ((features.tokens * a).mean() + (features.pooled * b).mean()).backward()
    ((tokens * a).mean() + (first * b).mean()).backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=1e-5, rtol=1e-5)
    map_of = next(p for n, p in theirs.named_parameters() if n.endswith("patch_embeddings.projection.weight"))
    torch.testing.assert_close(ours.embed.weight.grad, map_of.grad.flatten(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "options"), MODELS)
def test_a_folder_of_hugging_face_computes_the_same(kind, options, tmp_path):
    theirs = hugging(kind, **options)
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    size = theirs.config.image_size
    size = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, theirs.config.num_channels, *size, generator=torch.Generator().manual_seed(1))
    same(loaded.backbone.eval(), theirs, x, getattr(theirs.config, "num_register_tokens", 0))
    assert loaded.missing == ()
    expected = {"embeddings.mask_token"} if kind != "ViTModel" else {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(loaded.unexpected) == expected
    names = {name for theirs in loaded.matched.values() for name in theirs}
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert names | expected == set(file.keys())  # every name of the file is accounted for


@pytest.mark.parametrize("swiglu", [None, "w12", "packed"])
@pytest.mark.parametrize("kind", ["Dinov2Model", REGISTERS])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_of_timm_and_dinov2_compute_the_same(kind, swiglu, suffix, tmp_path):
    theirs = hugging(kind, use_swiglu_ffn=swiglu is not None)
    state = timm_names(theirs, swiglu or "w12")
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load(path, heads=HEADS)
    same(loaded.backbone.eval(), theirs, images(), 4 if kind == REGISTERS else 0)
    assert loaded.missing == loaded.unexpected == ()


@pytest.mark.parametrize("side", [12, 28])
@pytest.mark.parametrize("kind", ["Dinov2Model", REGISTERS])
def test_other_image_sizes_resample_positions_as_theirs_do(kind, side, tmp_path):
    theirs = hugging(kind)
    theirs.save_pretrained(tmp_path)
    same(load(tmp_path).backbone.eval(), theirs, images(side=side), 4 if kind == REGISTERS else 0)


def test_other_image_sizes_of_dinov2_and_of_timm(tmp_path):
    """timm antialiases (its resample_abs_pos_embed), DINOv2 without registers, told by its mask token, does not."""
    theirs = hugging("Dinov2Model")
    state = timm_names(theirs)
    torch.save(state | {"mask_token": torch.zeros(1, WIDTH)}, tmp_path / "dinov2.pth")
    torch.save(state, tmp_path / "timm.pth")
    same(load(tmp_path / "dinov2.pth", heads=HEADS).backbone.eval(), theirs, images(side=12))
    ours = load(tmp_path / "timm.pth", heads=HEADS).backbone
    assert ours.style.antialias
    with torch.no_grad():
        pictures = images(side=12)
        start = ours.stack.enter(ours.embedded(pictures), (3, 3))[0][:, 1:]
        table = state["pos_embed"][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        table = torch.nn.functional.interpolate(table, size=(3, 3), mode="bicubic", antialias=True).flatten(2).mT
        torch.testing.assert_close(start, ours.embedded(pictures) + table)


def test_memory_names_of_transformers_are_read_too(tmp_path):
    theirs = hugging("ViTModel")
    torch.save({"module." + name: value for name, value in theirs.state_dict().items()}, tmp_path / "w.pt")
    same(load(tmp_path / "w.pt", heads=HEADS).backbone.eval(), theirs, images())


def test_a_prefix_and_a_head_do_not_matter_and_are_listed(tmp_path):
    theirs = hugging("ViTForImageClassification")
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    same(loaded.backbone.eval(), theirs.vit, images())
    assert loaded.unexpected == ("classifier.bias", "classifier.weight")


def test_the_teacher_is_taken_and_the_student_listed(tmp_path):
    teacher, student = timm_names(hugging("Dinov2Model")), timm_names(hugging("Dinov2Model"))
    student["norm.weight"] += 1
    file = {
        "teacher": {f"backbone.{k}": v for k, v in teacher.items()},
        "student": {f"backbone.{k}": v for k, v in student.items()},
    }
    torch.save(file | {"epoch": 3}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", heads=HEADS)
    torch.testing.assert_close(loaded.backbone.norm.weight.detach(), teacher["norm.weight"])
    assert set(loaded.unexpected) == {f"student.backbone.{name}" for name in student} | {"epoch"}
    torch.save({"a": teacher, "b": student}, tmp_path / "two.pth")
    with pytest.raises(InputError, match="holds 2 ViTs, under 'a.', 'b.'"):
        load(tmp_path / "two.pth")


def test_no_position_for_the_class_token(tmp_path):
    """timm's no_embed_class: the table is of patches alone."""
    theirs = hugging("Dinov2Model")
    with torch.no_grad():
        theirs.embeddings.position_embeddings[:, 0] = 0
    state = timm_names(theirs)
    state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    torch.save(state, tmp_path / "w.pth")
    same(load(tmp_path / "w.pth", heads=HEADS).backbone.eval(), theirs, images())


def test_positions_of_the_registers_are_added_to_them(tmp_path):
    """timm's reg models without no_embed_class: the table is of class token, registers and patches."""
    theirs = hugging(REGISTERS)
    state = timm_names(theirs)
    extra = images(channels=4, side=WIDTH)[0, :, 0][None]  # 1 x 4 x WIDTH
    place = state["pos_embed"]
    state["pos_embed"] = torch.cat([place[:, :1], extra, place[:, 1:]], 1)
    state["register_tokens"] = state["register_tokens"] - extra
    torch.save(state, tmp_path / "w.pth")
    same(load(tmp_path / "w.pth", heads=HEADS).backbone.eval(), theirs, images(), 4)


def test_a_volume_constant_along_depth_is_patched_as_the_picture(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "w.pth")
    flat, deep = load(tmp_path / "w.pth", heads=HEADS).backbone, load(tmp_path / "w.pth", ndim=3, heads=HEADS)
    x = images()
    volume = x[:, :, None].expand(-1, -1, 3 * PATCH, -1, -1)
    rows, tokens = flat.embedded(x), deep.backbone.embedded(volume.contiguous())
    torch.testing.assert_close(tokens, rows.repeat(1, 3, 1), atol=1e-6, rtol=1e-5)
    assert deep.reshaped["embed.weight"] == f"inflated along depth over {PATCH} voxels"
    assert "repeated over a depth" in deep.reshaped["stack.positions.table"]
    table = deep.backbone.stack.positions.table.unflatten(0, (-1, (SIDE // PATCH) ** 2))
    torch.testing.assert_close(table, flat.stack.positions.table[None].expand_as(table))
    features = deep.backbone(volume)  # tokens of one picture place differ by nothing but their depth: which is nothing yet
    layers = features.tokens.unflatten(1, (3, -1))
    torch.testing.assert_close(layers[:, 0], layers[:, 2], atol=1e-4, rtol=1e-4)


def test_equal_channels_are_answered_as_before(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "w.pth")
    grey = images(channels=1)
    whole = load(tmp_path / "w.pth", heads=HEADS).backbone(grey.expand(-1, 3, -1, -1)).tokens
    for channels in (1, 2, 5):
        loaded = load(tmp_path / "w.pth", channels=channels, heads=HEADS)
        ours = loaded.backbone(grey.expand(-1, channels, -1, -1))
        torch.testing.assert_close(ours.tokens, whole, atol=1e-4, rtol=1e-4)
        assert "3 channels summed" in str(loaded)
    with pytest.raises(InputError, match="built for 3 channels"):
        load(tmp_path / "w.pth", heads=HEADS).backbone(grey)


def test_what_the_file_lacks_is_missing_and_the_same_every_time(tmp_path):
    state = timm_names(hugging("Dinov2Model"))
    gone = ("blocks.1.mlp.fc2.weight", "norm.weight", "norm.bias")
    torch.save({name: value for name, value in state.items() if name not in gone}, tmp_path / "w.pth")
    loaded, again = load(tmp_path / "w.pth", heads=HEADS), load(tmp_path / "w.pth", heads=HEADS)
    assert loaded.missing == ("norm.bias", "norm.weight", "stack.blocks.1.mix.out.weight")
    assert all(name in str(loaded) for name in loaded.missing)
    for name, value in again.backbone.state_dict().items():
        assert torch.equal(value, loaded.backbone.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.0.attn.q_norm.weight": torch.ones(8)}, "parts that ours does not have .blocks.0.attn.q_norm.weight"),
        ({"rope_embed.periods": torch.ones(8)}, "parts that ours does not have"),
        ({"embeddings.distillation_token": torch.ones(1, 1, WIDTH)}, "parts that ours does not have"),
        ({"blocks.999999999.norm1.weight": torch.ones(WIDTH)}, "numbers 1000000000 blocks and holds 3"),
        ({"norm_pre.weight": torch.ones(WIDTH)}, "parts that ours does not have"),
        ({"blocks.1.mlp.fc1.weight": torch.ones(4, WIDTH)}, "blocks.1.mlp.fc1.weight is 4 x 24 where the network needs 96 x 24"),
        ({"patch_embed.proj.weight": torch.ones(WIDTH, 3, 4, 2)}, "square patches"),
        ({"patch_embed.proj.weight": torch.ones(WIDTH)}, "square patches"),
        ({"pos_embed": torch.ones(1, 7, WIDTH)}, "7 positions, which are no square grid"),
        ({"norm.weight": torch.full((WIDTH,), torch.nan)}, "norm.weight has values that are not finite"),
    ],
)
def test_what_cannot_be_the_same_is_refused(change, says, tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")) | change, tmp_path / "w.pth")
    with pytest.raises(InputError, match=says) as told:
        load(tmp_path / "w.pth", heads=HEADS)
    assert "\n" not in str(told.value)


def test_settings_that_do_not_fit_are_refused(tmp_path):
    torch.save(timm_names(hugging("Dinov2Model")), tmp_path / "w.pth")
    with pytest.raises(InputError, match="give heads="):
        load(tmp_path / "w.pth")
    with pytest.raises(InputError, match="use patch=4"):
        load(tmp_path / "w.pth", heads=HEADS, patch=8)
    hugging("ViTModel", hidden_act="relu").save_pretrained(tmp_path / "relu")
    hugging("ViTModel", layer_norm_eps=0.0).save_pretrained(tmp_path / "eps")
    with pytest.raises(InputError, match="layer_norm_eps"):
        load(tmp_path / "eps")
    with pytest.raises(InputError, match="'relu'"):
        load(tmp_path / "relu")
    state = timm_names(hugging("Dinov2Model"))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, None].repeat(1, 1, PATCH, 1, 1)
    state["pos_embed"] = torch.ones(1, 9, WIDTH)
    torch.save(state, tmp_path / "3d.pth")
    assert load(tmp_path / "3d.pth", heads=HEADS).backbone.ndim == 3
    with pytest.raises(InputError, match="use ndim=3"):
        load(tmp_path / "3d.pth", heads=HEADS, ndim=2)
