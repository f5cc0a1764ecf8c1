"""Checked against plain reachability on random graphs, with and without circles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graph_engine import Workflow
from graph_engine.order import dependencies, needed
from server.protocol.dependents import dependents

graphs = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=10)


@given(graphs, st.lists(st.integers(0, 9), unique=True, max_size=5))
def test_every_node_knows_the_outputs_that_need_it(links, chosen):
    count = len(links)
    nodes = {str(i): {"class_type": "X", "inputs": {str(k): [str(j % count), 0] for k, j in enumerate(to)}} for i, to in enumerate(links)}
    workflow = Workflow.from_json(nodes)
    outputs = [str(i) for i in chosen if i < count]
    found = dependents(workflow, outputs)
    reach = {output: needed(dependencies(workflow), [output]) for output in outputs}
    assert found == {id: wanted for id in nodes if (wanted := [output for output in outputs if id in reach[output]])}
