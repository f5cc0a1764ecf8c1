"""Every family from a single file: told by its shapes, run, written and read again."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.family import family
from diffusion.family.parts import find_text, load_tower
from diffusion.family.structure import read_diffusers, read_original
from diffusion.files import open_tensors, write_tensors
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint, open_clip, open_unet, open_vae
from diffusion.process import Process
from diffusion.sample import sample
from diffusion.saving import clip_tensors, metadata, model_tensors, tower_files, vae_tensors
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas, Size

KINDS = {
    "sd15": ("sd1", "epsilon"),
    "sd15-inpaint": ("sd1", "epsilon"),
    "sd15-ip2p": ("sd1", "epsilon"),
    "sd21": ("sd1", "epsilon"),
    "sd21-v": ("sd1", "v_prediction"),
    "sd21-inpaint": ("sd1", "epsilon"),
    "sdxl": ("sdxl", "epsilon"),
    "sdxl-inpaint": ("sdxl", "epsilon"),
    "sdxl-ip2p": ("sdxl", "epsilon"),
    "sdxl-refiner": ("sdxl", "epsilon"),
    "ssd-1b": ("sdxl", "epsilon"),
    "koala": ("sdxl", "epsilon"),
}


def draw(model, clip, vae, device):
    guidance = CFG(encode(clip, "a (red:1.3) cat", device), encode(clip, "", device), 3.0)
    sigmas = Sigmas(sigmas_for(model.process.table(), "normal", 1, 1.0, "euler"))
    latent, _ = sample(Guider(model, guidance), Noise(3), Sampler.of("euler"), sigmas, Latent(torch.zeros(1, 4, 4, 4)), device)
    return decode(vae, latent, device).pixels


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_told_by_its_shapes_runs_and_is_the_same_when_written_and_read(kind, file_of, device, tmp_path):
    model, clip, vae = open_checkpoint(file_of(kind))
    assert (model.weights.family, model.process.prediction) == KINDS[kind]
    first = draw(model, clip, vae, device)
    assert torch.isfinite(first).all()
    tensors = model_tensors(model, device) | clip_tensors(clip, device) | vae_tensors(vae, device, whole=True)
    with open(tmp_path / "again.safetensors", "wb") as file:
        write_tensors(file, tensors, {"format": "pt"})
    known = load_file(file_of(kind))
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(known[name], tensor) for name, tensor in again.items())
    left = {name.rpartition(".")[2] for name in known.keys() - again.keys()}
    assert left <= {"position_ids", "text_projection"}  # 2.x does not use its projection
    assert torch.equal(draw(*open_checkpoint(tmp_path / "again.safetensors"), device), first)


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "sdxl-refiner", "ssd-1b", "koala"])
def test_full_size_structures_are_those_that_diffusers_has(kind, tool):
    from diffusers import UNet2DConditionModel

    shapes = dict(tool.unet("", tool.kinds(full=True)[kind].net))
    structure = read_original(shapes)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(structure.config())
    module_shapes = {name: tuple(t.shape) for name, t in unet.state_dict().items()}
    assert {structure.rename(key): shape for key, shape in shapes.items()} == module_shapes
    assert read_diffusers(module_shapes) == structure
    millions = {"sd15": 859.5, "sd21": 865.9, "sdxl": 2567.5, "sdxl-refiner": 2259.5, "ssd-1b": 1330.7, "koala": 782.0}
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions[kind], rel=0.01)


def test_half_and_single_precision_files_give_the_same_weights(tool, device, tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        save_file(tool.make("sd15", dtype=dtype), tmp_path / "x.safetensors")
        stored = load_file(tmp_path / "x.safetensors")["model.diffusion_model.out.2.weight"]
        with device.weights(open_checkpoint(tmp_path / "x.safetensors")[0].weights) as unet:
            assert unet.dtype == torch.float32
            assert torch.equal(unet.conv_out.weight, stored.float())


def test_a_diffusers_folder_of_sdxl_gives_the_same_picture(file_of, device, tmp_path):
    model, clip, vae = open_checkpoint(file_of("sdxl"))
    from diffusion.family.text import clip_tokenizer

    for part, ref in (("unet", model), ("vae", vae)):
        with device.weights(ref.weights) as module:
            module.save_pretrained(tmp_path / part)
    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps({**config, "scaling_factor": 0.13025}))
    with device.weights(clip.weights) as both:
        for number, tower in (("", both.l), ("_2", both.g)):
            folder = tmp_path / f"text_encoder{number}"
            kind = "CLIPTextModel" + ("WithProjection" if number else "")
            tower.model.config.architectures = [kind]
            if number:
                tower.model.config.projection_dim = tower.model.text_projection.out_features
            tower.model.config.save_pretrained(folder)
            names = {n if n.startswith("text_projection") else f"text_model.{n}": t for n, t in tower.model.state_dict().items()}
            save_file(names, folder / "model.safetensors")
            clip_tokenizer(not number).save_pretrained(tmp_path / f"tokenizer{number}")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text("{}")
    opened = open_checkpoint(tmp_path)
    assert opened[0].weights.family == "sdxl"
    assert torch.equal(draw(*opened, device), draw(model, clip, vae, device))


def test_sdxl_is_told_sizes_and_the_refiner_a_score(file_of, device):
    for kind, default, told in (
        ("sdxl", [64, 128, 0, 0, 64, 128], [1, 2, 3, 4, 5, 6]),
        ("sdxl-refiner", [64, 128, 0, 0, 2.5], [1, 2, 3, 4, 7]),
    ):
        model, clip, _ = open_checkpoint(file_of(kind))
        (entry,) = encode(clip, "a cat", device)
        with device.weights(model.weights) as unet:
            added = family("sdxl").added(unet, [("negative", entry)], 2, 8, 16)
            assert added["time_ids"].tolist() == [default] * 2
            assert torch.equal(added["text_embeds"][1:], entry.pooled)
            sized = replace(entry, size=Size(1, 2, 3, 4, 5, 6, aesthetic=7))
            assert family("sdxl").added(unet, [("positive", sized)], 1, 8, 16)["time_ids"].tolist() == [told]
            with pytest.raises(ValueError, match="pooled"):
                family("sdxl").added(unet, [("positive", replace(entry, pooled=None))], 1, 8, 16)


def test_sdxl_states_are_the_layer_before_the_last_without_norm_side_by_side(file_of, device):
    _, clip, _ = open_checkpoint(file_of("sdxl"))
    (entry,) = encode(clip, "a cat", device)
    (last,) = encode(replace(clip, last_layer=-1), "a cat", device)
    with device.weights(clip.weights) as both, torch.no_grad():
        start = 0
        for tower in both.towers:
            ids = [tower.bos, *(id for id, _ in tower.split("a cat")), tower.eos]
            out = tower.model(torch.tensor([ids + [tower.pad] * (77 - len(ids))]), output_hidden_states=True)
            for states, k in ((entry.embeds, -2), (last.embeds, -1)):
                assert torch.allclose(states[..., start : start + tower.width], out.hidden_states[k], atol=1e-4)
            start += tower.width
        assert (both.l.pad, both.g.pad) == (49407, 0)
        assert torch.allclose(entry.pooled, both.g.model.text_projection(out.last_hidden_state[:, len(ids) - 1]), atol=1e-4)


def test_parts_load_alone_and_text_encoders_in_any_order(file_of, device, tmp_path):
    model, clip, vae = open_checkpoint(file_of("sdxl"))
    files = []
    for name, tensors in tower_files(clip, device).items():
        files.append(tmp_path / f"{name}.safetensors")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, files[-1])
    together = encode(clip, "a cat", device).entries[0]
    for order in (files, files[::-1]):
        assert torch.equal(encode(open_clip(order), "a cat", device).entries[0].embeds, together.embeds)
    with open(tmp_path / "unet.safetensors", "wb") as file:
        write_tensors(file, {name.removeprefix("model.diffusion_model."): t for name, t in model_tensors(model, device).items()})
    with open(tmp_path / "vae.safetensors", "wb") as file:
        write_tensors(file, vae_tensors(vae, device, whole=False))
    alone = open_unet(tmp_path / "unet.safetensors"), open_clip(files), open_vae(tmp_path / "vae.safetensors")
    assert torch.equal(draw(*alone, device), draw(model, clip, vae, device))
    with device.weights(model.weights) as unet:
        save_file(unet.state_dict(), tmp_path / "diffusers.safetensors")
    assert open_unet(tmp_path / "diffusers.safetensors").weights.family == "sdxl"


def test_the_prediction_is_told_by_marks_metadata_a_yaml_and_the_weights(tool, tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = tool.make("sd21")
    save_file(tensors, path)
    assert open_checkpoint(path)[0].process.prediction == "epsilon"
    save_file(tensors, path, {"modelspec.prediction_type": "v"})
    assert open_checkpoint(path)[0].process.prediction == "v_prediction"
    save_file({**tensors, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    process = open_checkpoint(path)[0].process
    assert (process.prediction, process.zero_terminal_snr) == ("v_prediction", True)
    save_file(tensors, path)
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert open_checkpoint(path)[0].process.prediction == "v_prediction"
    path.with_suffix(".yaml").unlink()
    last = max(key for key in tensors if key.startswith("model.diffusion_model.output_blocks.") and key.endswith("blocks.0.norm1.bias"))
    save_file({**tensors, last: torch.linspace(-1, 1, len(tensors[last])).half()}, path)
    assert open_checkpoint(path)[0].process.prediction == "v_prediction"


def test_the_spread_tells_under_either_name(tool, device, tmp_path):
    tensors = tool.make("sd21")
    last = max(key for key in tensors if key.startswith("model.diffusion_model.output_blocks.") and key.endswith("blocks.0.norm1.bias"))
    save_file({**tensors, last: torch.linspace(-1, 1, len(tensors[last])).half()}, tmp_path / "x.safetensors")
    model = open_unet(tmp_path / "x.safetensors")
    with device.weights(model.weights) as unet:
        unet.save_pretrained(tmp_path / "folder/unet")
    for path in (tmp_path / "folder/unet/diffusion_pytorch_model.safetensors", tmp_path / "folder"):
        assert open_unet(path).process == model.process == Process("v_prediction")


def test_what_a_written_model_predicts_is_not_guessed_again(tool, device, tmp_path):
    tensors = tool.make("sd21")
    last = max(key for key in tensors if key.startswith("model.diffusion_model.output_blocks.") and key.endswith("blocks.0.norm1.bias"))
    save_file({**tensors, last: torch.linspace(-1, 1, len(tensors[last])).half()}, tmp_path / "x.safetensors")
    model = open_unet(tmp_path / "x.safetensors")
    for process in (
        Process("epsilon"),
        Process("v_prediction"),
        Process("epsilon", zero_terminal_snr=True),
        Process("v_prediction", levels=(0.002, 120.0)),
    ):
        told = replace(model, process=process)
        with open(tmp_path / "y.safetensors", "wb") as file:
            write_tensors(file, model_tensors(told, device), metadata(told))
        assert open_unet(tmp_path / "y.safetensors").process == process


@pytest.mark.parametrize(
    "process",
    [
        Process("lcm"),
        Process("sample"),
        Process("edm", levels=(0.002, 80.0), sigma_data=0.5),
        Process("epsilon", levels=(0.002, 80.0)),
        Process(beta_schedule="linear"),
        Process(beta_end=0.02),
    ],
)
def test_a_process_that_files_do_not_tell_is_not_written(process, file_of, device):
    model = replace(open_checkpoint(file_of("sd15"))[0], process=process)
    with pytest.raises(ValueError, match=f"a model trained as {process.prediction} on {process.beta_schedule} levels cannot be written"):
        model_tensors(model, device)


def test_sdxl_files_tell_velocity_and_levels_of_their_own(tool, tmp_path):
    tensors, path = tool.make("sdxl"), tmp_path / "x.safetensors"
    levels = {"edm_vpred.sigma_max": torch.tensor(64.0), "edm_vpred.sigma_min": torch.tensor(0.25)}
    for marks, process in (
        ({"v_pred": torch.zeros(0)}, Process("v_prediction")),
        ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, Process("v_prediction", zero_terminal_snr=True)),
        (levels, Process("v_prediction", levels=(0.25, 64.0))),
    ):
        save_file({**tensors, **marks}, path)
        assert open_checkpoint(path)[0].process == process
    save_file({**tensors, "edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: this is a Playground 2\.5 model"):
        open_checkpoint(path)
    save_file({**tool.make("sdxl-ip2p"), **levels}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: this is a CosXL Edit model"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("input_blocks.1.1.time_stack.0.norm1.weight", "a Stable Video Diffusion model"),
        ("input_blocks.1.1.transformer_blocks.0.fuser.linear.weight", "a GLIGEN model"),
        ("input_blocks.1.1.other.weight", "1 weights do not fit .*other.weight is not known"),
        ("other.weight", "1 weights do not fit .*other.weight is not known"),
    ],
)
def test_weights_that_a_network_has_no_place_for_are_named(name, said, tool, tmp_path):
    save_file({**tool.make("sd15"), f"model.diffusion_model.{name}": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=said):
        open_checkpoint(tmp_path / "x.safetensors")


def test_clip_skip_counts_the_layer_that_a_folder_of_the_second_generation_leaves_out(file_of, device):
    (whole,) = find_text(open_tensors(file_of("sd21")))
    tower = load_tower(whole, torch.float32, layer=-2, norm=True)
    assert (tower.name, len(tower.model.encoder.layers), tower.left_out) == ("h", 3, 0)
    ids = torch.tensor([[tower.bos, 320, tower.eos, *[tower.pad] * 74]])
    with torch.no_grad():
        states = {layer: tower(ids, layer)[0] for layer in (None, -2, -3)}
        del tower.model.encoder.layers[-1]
        tower.layer = -1
        assert tower.left_out == 1
        assert all(torch.equal(tower(ids, layer)[0], states[layer]) for layer in states)
        with pytest.warns(UserWarning, match="2 layers; stopping at -1 is not possible"):
            assert torch.equal(tower(ids, -1)[0], states[None])


@pytest.mark.parametrize("what", ["unet", "text", "vae"])
def test_missing_weights_are_named_when_the_file_is_opened(what, tool, tmp_path):
    tensors = tool.make("sd15")
    prefix = {"unet": "model.diffusion_model.", "text": "cond_stage_model.", "vae": "first_stage_model."}[what]
    gone = [name for name in tensors if name.startswith(prefix) and name.endswith("norm1.bias" if what != "text" else "layer_norm1.bias")][
        :3
    ]
    for name in gone:
        del tensors[name]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"{len(gone)} weights do not fit.*is missing"):
        open_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("double_blocks.0.img_attn.proj.weight", "a Flux model"),
        ("lora_unet_mid_block.lora_down.weight", "a LoRA"),
        ("control_model.input_hint_block.0.weight", "a ControlNet"),
        ("emb_params", "a textual-inversion embedding"),
        ("foo.weight", "not known"),
    ],
)
def test_what_is_something_else_is_called_by_its_name(name, found, tmp_path):
    save_file({name: torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    for open in (open_checkpoint, open_unet, open_vae, lambda path: open_clip([path])):
        with pytest.raises(ValueError, match=found):
            open(tmp_path / "x.safetensors")


def test_a_vae_alone_is_no_checkpoint_and_a_reduced_model_says_so(file_of):
    with pytest.raises(ValueError, match="it has a VAE, no U-Net and no text encoder"):
        open_checkpoint(file_of("vae"))


def test_text_of_another_width_is_refused_with_what_to_do(file_of, device):
    model, _, vae = open_checkpoint(file_of("sdxl"))
    _, clip, _ = open_checkpoint(file_of("sd15"))
    with pytest.raises(ValueError, match=r"pooled vector of width 128|width 192 is wanted"):
        draw(model, clip, vae, device)


def test_weights_rounded_to_eight_bits(file_of, device):
    with device.weights(open_unet(file_of("sd15"), "float8_e4m3fn").weights) as rounded:
        weight = rounded.conv_out.weight.clone()
    exact = open_tensors(file_of("sd15")).read(["model.diffusion_model.out.2.weight"])["model.diffusion_model.out.2.weight"]
    assert torch.equal(weight, exact.float().to(torch.float8_e4m3fn).float())


def test_the_same_seed_makes_the_same_file(tool):
    a, b, other = tool.make("clip-l"), tool.make("clip-l"), tool.make("clip-l", seed=1)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["text_model.final_layer_norm.bias"], other["text_model.final_layer_norm.bias"])
