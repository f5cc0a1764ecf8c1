from nodes.flow import Switch
from nodes.switch import ComfySwitchNode


def test_it_asks_for_the_side_it_takes_and_hands_it_on(ctx):
    for on, side in ((True, "on_true"), (False, "on_false")):
        node = ComfySwitchNode(switch=on, on_false=1, on_true="b")
        assert list(node.wants()) == [side]
        assert node.run(ctx) == getattr(node, side)


def test_its_inputs_are_those_of_the_other_switch():
    assert [entry.name for entry in ComfySwitchNode.spec.inputs] == [entry.name for entry in Switch.spec.inputs]
    assert all(entry.lazy for entry in ComfySwitchNode.spec.inputs if entry.name != "switch")
