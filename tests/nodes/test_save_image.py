import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from diffusion.values import Image, Latent, Mask
from graph_engine.context import Context
from graph_engine.errors import Cancelled, NodeError
from nodes.image_files import LoadImage
from nodes.latent_files import OLD_SCALE, LoadLatent, SaveLatent
from nodes.save_image import MaskPreview, PreviewImage, SaveImage

WORKFLOW = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": 'ä\n"quoted"'}}}


@pytest.fixture
def telling(device, folders) -> Context:
    extra = {"extra_pnginfo": {"workflow": {"nodes": [], "name": "日本"}}, "auth_token": "secret"}
    return Context.silent(device, folders, workflow=WORKFLOW, extra=extra)


def pixels(*values: float) -> Image:
    return Image(torch.tensor(values)[:, None, None, None].expand(len(values), 2, 3, 3))


def test_levels_are_cut_and_truncated_not_rounded(ctx):
    SaveImage(images=pixels(0.999, 0.5, 1.7, -0.2)).run(ctx)
    levels = [np.asarray(Picture.open(artifact.path))[0, 0, 0] for artifact in ctx.artifacts]
    assert levels == [254, 127, 255, 0]


def test_files_are_numbered_on_from_the_highest(ctx):
    SaveImage(images=pixels(0, 1), filename_prefix="cat").run(ctx)
    SaveImage(images=pixels(0), filename_prefix="cat").run(ctx)
    assert [artifact.filename for artifact in ctx.artifacts] == ["cat_00001_.png", "cat_00002_.png", "cat_00003_.png"]
    assert {artifact.type for artifact in ctx.artifacts} == {"output"}


def test_prefixes_name_folders_and_fill_in_sizes_but_stay_inside(ctx):
    SaveImage(images=pixels(0, 1), filename_prefix="a/b_%width%x%height%_%batch_num%").run(ctx)
    first, second = ctx.artifacts
    assert (first.subfolder, first.filename, second.filename) == ("a", "b_3x2_0_00001_.png", "b_3x2_1_00002_.png")
    with pytest.raises(NodeError):
        SaveImage(images=pixels(0), filename_prefix="../out").run(ctx)


def test_the_workflow_travels_in_the_picture_and_secrets_do_not(telling):
    SaveImage(images=pixels(0)).run(telling)
    with Picture.open(telling.artifacts[0].path) as picture:
        texts = dict(picture.text)
    assert json.loads(texts["prompt"]) == WORKFLOW
    assert json.loads(texts["workflow"]) == {"nodes": [], "name": "日本"}
    assert set(texts) == {"prompt", "workflow"}
    data = Path(telling.artifacts[0].path).read_bytes()
    assert b"tEXtprompt" in data
    assert b"iTXt" not in data


def test_a_saved_picture_read_and_saved_again_keeps_its_bytes(ctx, folders):
    SaveImage(images=Image(torch.rand(1, 9, 8, 3)), filename_prefix="one").run(ctx)
    again = LoadImage(image="one_00001_.png [output]").run(ctx).image
    SaveImage(images=again, filename_prefix="two").run(ctx)
    first, second = (np.asarray(Picture.open(artifact.path)) for artifact in ctx.artifacts)
    assert np.array_equal(first, second)


def test_previews_go_to_the_temporary_folder_under_names_of_their_own(ctx):
    PreviewImage(images=pixels(0, 1)).run(ctx)
    PreviewImage(images=pixels(0)).run(ctx)
    assert {artifact.type for artifact in ctx.artifacts} == {"temp"}
    assert len({artifact.filename for artifact in ctx.artifacts}) == 3


def test_a_cancelled_run_saves_nothing_more(device, folders):
    class Cancel:
        calls = 0

        def check(self) -> None:
            self.calls += 1
            if self.calls > 2:
                raise Cancelled

        def step(self, *_) -> None: ...

    ctx = Context(folders=folders, device=lambda: device, watch=Cancel())
    with pytest.raises(Cancelled):
        SaveImage(images=pixels(0, 0, 0, 0)).run(ctx)
    assert len(ctx.artifacts) == 2


def test_latents_go_round_through_a_file(telling, folders):
    latent = Latent(torch.randn(2, 4, 3, 5))
    SaveLatent(samples=latent).run(telling)
    saved = telling.artifacts[0]
    assert (saved.subfolder, saved.filename) == ("latents", "ComfyUI_00001_.latent")
    inputs = folders.places("input")[0]
    (inputs / "x.latent").write_bytes(Path(saved.path).read_bytes())
    assert folders.list("latents") == ("x.latent",)
    assert "x.latent" not in folders.list("input")
    assert torch.equal(LoadLatent(latent="x.latent").run(telling).x, latent.x)
    assert torch.equal(LoadLatent(latent="latents\\ComfyUI_00001_.latent [output]").run(telling).x, latent.x)


def test_latent_files_of_the_old_version_are_unscaled(ctx, folders):
    from safetensors.torch import save_file

    inputs = folders.places("input")[0]
    save_file({"latent_tensor": torch.full((1, 4, 2, 2), OLD_SCALE)}, inputs / "old.latent")
    assert torch.allclose(LoadLatent(latent="old.latent").run(ctx).x, torch.ones(1, 4, 2, 2))
    save_file({"other": torch.zeros(1)}, inputs / "other.latent")
    with pytest.raises(NodeError, match=r"latent: 'other\.latent' has no tensor latent_tensor"):
        LoadLatent(latent="other.latent").run(ctx)
    (inputs / "broken.latent").write_bytes(b"nothing")
    with pytest.raises(NodeError, match=r"latent: 'broken\.latent' cannot be read"):
        LoadLatent(latent="broken.latent").run(ctx)


def test_a_mask_is_shown_as_grey_in_the_temporary_folder(ctx):
    MaskPreview(mask=Mask(torch.tensor([[[0.0, 0.5], [1.0, 0.25]]]))).run(ctx)
    (file,) = (ctx.folders.base / "temp").glob("*.png")
    with Picture.open(file) as picture:
        assert picture.mode == "L"
        assert np.asarray(picture).tolist() == [[0, 127], [255, 63]]
