import pytest
import torch

from diffusion.lora.products import Decomposed, HadamardDelta, KroneckerDelta
from diffusion.weights import FullDelta, LowRankDelta

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hadamard_of_two_products():
    a, b, c, d = randn(5, 2, seed=1), randn(2, 6, seed=2), randn(5, 2, seed=3), randn(2, 6, seed=4)
    found = HadamardDelta("w", a, b, c, d, alpha=3.0, strength=0.5).compute(torch.Size((5, 6)), CPU)
    for i in range(5):
        for j in range(6):
            wanted = 0.5 * (3.0 / 2) * sum(a[i, k] * b[k, j] for k in range(2)) * sum(c[i, k] * d[k, j] for k in range(2))
            assert found[i, j] == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)


def test_hadamard_with_cores_is_a_convolution_kernel():
    t1, t2 = randn(2, 2, 3, 3, seed=5), randn(2, 2, 3, 3, seed=6)
    a, b, c, d = randn(2, 4, seed=1), randn(2, 3, seed=2), randn(2, 4, seed=3), randn(2, 3, seed=4)
    found = HadamardDelta("w", a, b, c, d, t1=t1, t2=t2).compute(torch.Size((4, 3, 3, 3)), CPU)
    one = sum(t1[i, j][None, None] * a[i][:, None, None, None] * b[j][None, :, None, None] for i in range(2) for j in range(2))
    two = sum(t2[i, j][None, None] * c[i][:, None, None, None] * d[j][None, :, None, None] for i in range(2) for j in range(2))
    assert torch.allclose(found, one * two, atol=1e-5)


def test_kronecker_of_wholes_has_no_alpha():
    w1, w2 = randn(2, 3, seed=1), randn(4, 5, seed=2)
    found = KroneckerDelta("w", (w1,), (w2,), alpha=100.0, strength=2.0).compute(torch.Size((8, 15)), CPU)
    for i in range(8):
        for j in range(15):
            assert found[i, j] == pytest.approx(float(2 * w1[i // 4, j // 5] * w2[i % 4, j % 5]))


@pytest.mark.parametrize("kernel", [False, True])
def test_kronecker_of_factors(kernel):
    w1 = randn(2, 3, seed=1)
    a, b = randn(4, 2, seed=2), randn(2, 5 * 9 if kernel else 5, seed=3)
    shape = torch.Size((8, 15, 3, 3)) if kernel else torch.Size((8, 15))
    w2 = (a @ b).reshape(4, 5, *shape[2:])
    if kernel:
        wanted = torch.stack([torch.kron(w1, w2[:, :, y, x]) for y in range(3) for x in range(3)], -1).reshape(shape)
        found = KroneckerDelta("w", (w1,), (w2,)).compute(shape, CPU)
    else:
        wanted = torch.kron(w1, w2) * (4.0 / 2)
        found = KroneckerDelta("w", (w1,), (a, b), alpha=4.0).compute(shape, CPU)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 3, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_decomposed_weight_has_the_magnitude_and_the_direction(shape, axis):
    weight, diff = randn(*shape, seed=1), randn(*shape, seed=2)
    size = [1] * len(shape)
    size[axis] = shape[axis]
    magnitude = randn(*size, seed=3).abs() + 0.5
    others = [i for i in range(len(shape)) if i != axis]
    changed = Decomposed("w", FullDelta("w", diff), magnitude).change(weight)
    assert torch.allclose(torch.linalg.vector_norm(changed, dim=others, keepdim=True), magnitude, atol=1e-5)
    direction = (weight + diff) / torch.linalg.vector_norm(weight + diff, dim=others, keepdim=True)
    assert torch.allclose(changed / magnitude, direction, atol=1e-5)
    half = Decomposed("w", FullDelta("w", diff), magnitude, strength=0.5).change(weight)
    assert torch.allclose(half, (weight + changed) / 2, atol=1e-5)


def test_a_decomposition_that_changes_nothing_gives_the_weight():
    weight = randn(5, 6)
    zero = LowRankDelta("w", torch.zeros(5, 2), randn(2, 6))
    assert torch.allclose(Decomposed("w", zero, weight.norm(dim=1)).change(weight), weight, atol=1e-6)


def test_misfits_are_named():
    shape = torch.Size((5, 6))
    with pytest.raises(ValueError, match=r"here.*\(5, 6\)"):
        HadamardDelta("here", randn(5, 2), randn(2, 7), randn(5, 2), randn(2, 7)).compute(shape, CPU)
    with pytest.raises(ValueError, match=r"here.*\(5, 6\)"):
        KroneckerDelta("here", (randn(2, 2),), (randn(2, 2),)).compute(shape, CPU)
    with pytest.raises(ValueError, match=r"here.*\(5, 6\).*\(4,\)"):
        Decomposed("here", FullDelta("here", torch.zeros(5, 6)), torch.ones(4)).change(torch.zeros(5, 6))
