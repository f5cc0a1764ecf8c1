"""Laws of what is said of a scene."""

from toybox.captions import CONVERSE, MAX_WORDS, RELATED, SYNONYMS, caption
from toybox.scenes import Background, Obj, Scene, sample

PAIR = Scene((Obj("star", "red", "large", "outlined", "left"), Obj("ring", "orange", position="top right")), Background("blue", "striped"))


def names(word: str) -> set[str]:
    return {word} | {name for name, group in SYNONYMS.items() if word in group}


def test_the_full_caption_names_everything() -> None:
    assert caption(PAIR).text == ("a large outlined red star on the left and an orange ring at the top right on a blue striped background")
    assert caption(PAIR, form="related").text == "a large outlined red star left of an orange ring on a blue striped background"
    assert caption(Scene(PAIR.objects[:1], PAIR.background)).text == ("a large outlined red star on the left on a blue striped background")


def test_spans_cover_the_words_and_point_at_what_they_name() -> None:
    for seed in range(300):
        scene = sample(seed)
        for said in (caption(scene), caption(scene, seed)):
            assert [said.text[a:b] for a, b, _ in said.words] == said.text.split()
            for start, end, referent in said.words:
                meant = names(said.text[start:end])
                if referent == "background":
                    assert meant & {"background", scene.background.color, scene.background.texture}
                elif referent is not None:
                    obj = scene.objects[referent]
                    known = {obj.shape, obj.color, obj.size, obj.style, *obj.position.split()}
                    assert meant & (known | {"middle", "side", "corner", "shape", "object"})


def test_loose_captions_repeat_by_seed_vary_and_fit() -> None:
    said = [caption(PAIR, seed) for seed in range(200)]
    assert said == [caption(PAIR, seed) for seed in range(200)]
    assert len({c.text for c in said}) > 150
    assert max(len(caption(sample(seed), seed).words) for seed in range(2000)) <= MAX_WORDS


def test_relations_are_true_in_either_order() -> None:
    spoken = {phrase: relation for relation, phrases in RELATED.items() for phrase in phrases}
    orders = set()
    for seed in range(100):
        said = caption(PAIR, seed, form="related")
        first = next(r for _, _, r in said.words if isinstance(r, int))
        relation = next(spoken[p] for p in sorted(spoken, key=len, reverse=True) if f" {p} a" in said.text or f" {p} the " in said.text)
        assert relation == (PAIR.relation if first == 0 else CONVERSE[PAIR.relation])
        orders.add(first)
    assert orders == {0, 1}
