"""Advice for problems: the nearest name, or an output of this workflow that would fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from graph_engine.sockets import ANY, accepts
from graph_engine.spec import InputSpec, NodeSpec
from graph_engine.suggest import nearest, show
from graph_engine.workflow import Workflow

__all__ = ["Hints"]

_MOST = 200  # comparisons of names in one validation: a document of a thousand odd names needs no thousand suggestions

_CALLED = {"INT": "a whole number", "FLOAT": "a number", "STRING": "a text", "BOOLEAN": "true or false"}
_SAID = {"INT": "1", "FLOAT": "0.5", "STRING": '"text"', "BOOLEAN": "true"}


class Hints:
    """Suggestions about one document, computed only when something is wrong."""

    def __init__(self, workflow: Workflow, specs: Mapping[str, NodeSpec]) -> None:
        self._workflow = workflow
        self._specs = specs
        self._known: dict[tuple[str, str], str | None] = {}
        self._makers: dict[tuple[str, ...], tuple[list[tuple[str, str]], list[str]]] = {}

    def nearest(self, name: str, known: Collection[str], among: str) -> str | None:
        """The known name that `name` most likely means; `among` names the collection, and the answer is remembered."""
        place = name, among
        if place not in self._known:
            if len(self._known) >= _MOST:
                return None
            self._known[place] = nearest(name, known)
        return self._known[place]

    def name(self, name: str, known: Collection[str], among: str) -> str | None:
        """`did you mean` the nearest, else what there is."""
        found = self.nearest(name, known, among)
        return f"did you mean {found!r}?" if found is not None else self.listed(known, among)

    def listed(self, known: Collection[Any], called: str) -> str | None:
        """What there is, the first few of it."""
        names = [str(each) for _, each in zip(range(8), known, strict=False)]
        return f"{called}: {', '.join(names)}{', ...' if len(known) > len(names) else ''}" if names else None

    def choice(self, value: Any, choices: Sequence[Any]) -> str | None:
        """The nearest choice to a value, else the first few choices."""
        texts = [choice for choice in choices if isinstance(choice, str)]
        if isinstance(value, str) and (found := self.nearest(value, texts, f"choices {id(choices)}")) is not None:
            return f"did you mean {found!r}?"
        return self.listed(choices, "choices")

    def fitting(self, node: str, wanted: InputSpec, earlier: Mapping[str, int]) -> str | None:
        """An output of this workflow that fits an input of `node` and comes `earlier`, else node types that have
        one.
        """
        if ANY in wanted.types:
            return 'link an output here, as ["id", output]'
        if wanted.types not in self._makers:
            self._makers[wanted.types] = self._outputs_for(wanted.types)
        outputs, types = self._makers[wanted.types]
        last = earlier.get(node, len(earlier))
        found = next((each for each in outputs if each[0] != node and earlier.get(each[0], last) < last), None)
        if found is not None:
            return f'link ["{found[0]}", "{found[1]}"] of {self._workflow.nodes[found[0]].label} here'
        return f"{' or '.join(types[:3])} gives one" if types else None

    def _outputs_for(self, wanted: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[str]]:
        makers = {
            type: output.name
            for type, spec in self._specs.items()
            for output in reversed(spec.outputs)
            if ANY not in output.types and accepts(wanted, output.types)
        }
        used = [(id, makers[entry.class_type]) for id, entry in self._workflow.nodes.items() if entry.class_type in makers]
        return used, list(makers)

    def value(self, spec: InputSpec) -> str | None:
        """What a literal may be, and the default for an example."""
        kind = next((kind for kind in spec.types if kind in _SAID), None)
        if spec.choices:
            return self.listed(spec.choices, "choices")
        if kind is None:
            return None
        bounds = (
            "" if spec.minimum is None else f" {'above' if spec.above else 'from'} {spec.minimum}",
            "" if spec.maximum is None else f" {'below' if spec.below else 'up to'} {spec.maximum}",
        )
        example = _SAID[kind] if spec.minimum is None or spec.above else show(spec.minimum)
        if spec.default is not None:
            example = show(spec.default)
        return f"give {_CALLED[kind]}{''.join(bounds)}, such as {example}"
