"""Weight types on U-Nets with the layout of SD 1 and SDXL: transformers are counted as they run, 16 and 11 of them."""

import pytest

from diffusion.call import Site
from diffusion.ip_adapter.weighting import WEIGHT_TYPES, Share, shares

SD1 = (("down", 0, 2, 1), ("down", 1, 2, 1), ("down", 2, 2, 1), ("mid", 0, 1, 1), ("up", 1, 3, 1), ("up", 2, 3, 1), ("up", 3, 3, 1))
XL = (("down", 1, 2, 2), ("down", 2, 2, 10), ("mid", 0, 1, 10), ("up", 0, 3, 10), ("up", 1, 3, 2))


def unet(layout):
    """Sites, and the number of the transformer that each is in."""
    sites, of, count = [], {}, -1
    for place, block, transformers, depth in layout:
        for i in range(transformers):
            count += 1
            for j in range(depth):
                for name in ("attn1", "attn2"):
                    path = f"{place}.{block}.attentions.{i}.transformer_blocks.{j}.{name}"
                    of[len(sites)] = count
                    sites.append(Site(path, place, block, len(sites), name == "attn2", 1))
    return sites, of


def by_transformer(layout, weight, kind):
    sites, of = unet(layout)
    given = shares(sites, weight, kind, layout is XL)
    assert all(sites[index].cross for index in given)
    found = {}
    for index, share in given.items():
        assert found.setdefault(of[index], share) == share
    assert sum(of[site.index] in found for site in sites if site.cross) == len(given)  # all layers of a transformer
    return found


def weights(layout, weight, kind):
    return {t: share.weight for t, share in by_transformer(layout, weight, kind).items()}


def test_the_blocks_of_style_and_composition():
    assert weights(XL, 0.8, "style transfer") == {6: 0.8}  # up_blocks.0.attentions.1
    assert weights(XL, 0.8, "composition") == {3: 0.8}  # down_blocks.2.attentions.1
    assert weights(XL, 0.8, "style and composition") == {3: 0.8, 6: 0.8}
    assert weights(XL, 0.8, "strong style transfer") == dict.fromkeys({*range(11)} - {3}, 0.8)
    assert weights(SD1, 0.8, "style transfer") == dict.fromkeys([*range(4), *range(9, 16)], 0.8)
    assert weights(SD1, 0.8, "composition") == {4: pytest.approx(0.2), 5: 0.8}
    assert weights(SD1, 0.8, "strong style transfer") == dict.fromkeys({*range(16)} - {4, 5}, 0.8)


def test_the_precise_kinds_push_the_other_away():
    assert by_transformer(XL, 1.0, "style transfer precise") == {3: Share(1.0, repels=True), 6: Share(1.0)}
    composition = by_transformer(XL, 1.0, "composition precise")
    assert composition[3] == Share(1.0)
    assert composition[6] == Share(1.0, repels=True)
    assert {share for t, share in composition.items() if t not in (3, 6)} == {Share(0.1, repels=True)}
    sd1 = by_transformer(SD1, 1.0, "composition precise")
    assert [sd1[t] for t in (4, 5)] == [Share(0.25), Share(1.0)]
    assert {sd1[t] for t in (6, 7, 8)} == {Share(0.1, repels=True)}
    assert {sd1[t] for t in (0, 3, 9, 15)} == {Share(1.0, repels=True)}


def test_curves_over_the_layers():
    n = 16
    assert weights(SD1, 1.0, "linear") == dict.fromkeys(range(n), 1.0)
    for t in range(n):
        assert weights(SD1, 2.0, "ease in")[t] == pytest.approx(2 * (0.05 + 0.95 * (1 - t / n)))
        assert weights(SD1, 2.0, "ease out")[t] == pytest.approx(2 * (0.05 + 0.95 * t / n))
        assert weights(SD1, 2.0, "ease in-out")[t] == pytest.approx(2 * (0.05 + 0.95 * (1 - abs(t - 8) / 8)))
        assert weights(SD1, 2.0, "reverse in-out")[t] == pytest.approx(2 * (0.05 + 0.95 * abs(t - 8) / 8))


@pytest.mark.parametrize(
    ("kind", "weak"),
    [("weak input", {*range(4)}), ("weak middle", {4}), ("weak output", {*range(5, 11)}), ("strong middle", {*range(4), *range(5, 11)})],
)
def test_weak_and_strong_places(kind, weak):
    assert weights(XL, 1.0, kind) == {t: 0.2 if t in weak else 1.0 for t in range(11)}


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_weight_0_leaves_no_site_and_every_kind_is_linear_in_the_weight(kind):
    assert by_transformer(SD1, 0.0, kind) == {}
    one, minus = weights(SD1, 1.0, kind), weights(SD1, -0.5, kind)
    assert minus == pytest.approx({t: -0.5 * weight for t, weight in one.items()})
