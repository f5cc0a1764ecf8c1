import pytest
import torch

from diffusion.lora.adapter import changes
from diffusion.lora.file import parse_lora
from diffusion.lora.merge import low_rank, merge_sum, truncate

LINEAR, CONV, TUCKER = (f"lora_unet_mid_block_{name}" for name in ("linear", "conv", "tucker"))
SHAPES = {LINEAR: (6, 5), CONV: (4, 3, 3, 3), TUCKER: (4, 3, 3, 3)}


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(seed, rank, alpha, only=tuple(SHAPES)):
    tensors = {}
    for i, (key, (out, inner, *kernel)) in enumerate(SHAPES.items()):
        if key not in only:
            continue
        ones = [1] * len(kernel)
        tensors[f"{key}.lora_up.weight"] = randn(out, rank, *ones, seed=seed + i)
        tensors[f"{key}.lora_down.weight"] = randn(rank, inner, *(ones if key == TUCKER else kernel), seed=seed + 10 + i)
        if key == TUCKER:
            tensors[f"{key}.lora_mid.weight"] = randn(rank, rank, *kernel, seed=seed + 20)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return parse_lora(tensors, f"rank {rank}")


def deltas(adapter):
    cpu = torch.device("cpu")
    return {m.key: sum(c.compute(torch.Size(SHAPES[m.key]), cpu) for _, c in changes(m, "w")) for m in adapter.modules}


def test_the_sum_is_exact_and_of_the_summed_rank():
    a, b = lora(1, 2, 3.0), lora(100, 3, None)
    merged = merge_sum([(a, 0.5), (b, -1.5)])
    da, db = deltas(a), deltas(b)
    for key, found in deltas(merged).items():
        assert torch.allclose(found, 0.5 * da[key] - 1.5 * db[key], atol=1e-5)
    assert [(m.get("down").shape[0], m.alpha) for m in merged.modules] == [(5, 5.0)] * 3


def test_modules_of_one_only_are_kept_with_their_weight():
    a, b = lora(1, 2, 3.0, (LINEAR,)), lora(100, 3, 1.0, (CONV,))
    found = deltas(merge_sum([(a, 2.0), (b, 0.5)]))
    assert torch.allclose(found[LINEAR], 2 * deltas(a)[LINEAR], atol=1e-6)
    assert torch.allclose(found[CONV], 0.5 * deltas(b)[CONV], atol=1e-6)


def test_svd_is_exact_at_the_full_rank_and_the_nearest_below():
    merged = merge_sum([(lora(1, 2, 3.0), 1.0), (lora(100, 2, None), 1.0)])
    whole, exact, cut = deltas(merged), deltas(truncate(merged, 4)), deltas(truncate(merged, 2))
    for key, delta in whole.items():
        assert torch.allclose(exact[key], delta, atol=1e-5)
        singular = torch.linalg.svdvals(delta.flatten(1))
        assert (delta - cut[key]).norm() == pytest.approx(float(singular[2:].norm()), rel=1e-4, abs=1e-5)
    assert {m.get("down").shape[0] for m in truncate(merged, 2).modules} == {2}


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3)])
def test_factors_of_a_whole_difference(shape):
    delta = randn(*shape, seed=3)
    up, down = low_rank(delta, 100)
    assert up.shape == (shape[0], min(shape[0], delta[0].numel()), *(1 for _ in shape[2:]))
    assert torch.allclose((up.flatten(1) @ down.flatten(1)).reshape(shape), delta, atol=1e-5)


def test_differences_add_up():
    a = parse_lora({f"{LINEAR}.diff": torch.ones(6, 5), f"{LINEAR}.diff_b": torch.ones(6)}, "a")
    merged = merge_sum([(a, 2.0), (a, 1.0), (lora(1, 2, None, (LINEAR,)), 1.0)])
    fields = dict(merged.modules[0].tensors)
    assert torch.equal(fields["diff"], torch.full((6, 5), 3.0))
    assert torch.equal(fields["diff_b"], torch.full((6,), 3.0))
    assert torch.allclose(deltas(lora(1, 2, None, (LINEAR,)))[LINEAR], fields["up"] @ fields["down"], atol=1e-6)


def test_what_does_not_add_up_is_named():
    loha = {f"{LINEAR}.hada_{n}": torch.ones(s) for n, s in (("w1_a", (6, 2)), ("w1_b", (2, 5)), ("w2_a", (6, 2)), ("w2_b", (2, 5)))}
    alone = merge_sum([(parse_lora(loha, "loha"), 3.0)])
    assert torch.allclose(deltas(alone)[LINEAR], 3 * deltas(parse_lora(loha, "loha"))[LINEAR])
    with pytest.raises(ValueError, match=rf"{LINEAR} has hada_w1_a"):
        merge_sum([(parse_lora(loha, "loha"), 1.0), (lora(1, 2, None), 1.0)])
    dora = parse_lora({f"{LINEAR}.lora_up.weight": torch.ones(6, 1), f"{LINEAR}.lora_down.weight": torch.ones(1, 5), f"{LINEAR}.dora_scale": torch.ones(6, 1)}, "d")  # fmt: skip  # noqa: E501
    with pytest.raises(ValueError, match="dora_scale"):
        merge_sum([(dora, 1.0)])


def test_adapters_for_different_models_are_told():
    other = {f"{LINEAR}.lora_up.weight": torch.ones(6, 2), f"{LINEAR}.lora_down.weight": torch.ones(2, 7)}
    with pytest.raises(ValueError, match=rf"{LINEAR} has another shape"):
        merge_sum([(lora(1, 2, None), 1.0), (parse_lora(other, "other"), 1.0)])
    with pytest.raises(ValueError, match="rank: at least 1"):
        truncate(lora(1, 2, None), 0)
