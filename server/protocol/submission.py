"""From the body of a POST to a run: what the client sent, what of it can run, and why the rest cannot."""

from __future__ import annotations

import dataclasses
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from graph_engine import Folders, NodeSpec, Problem, Workflow, WorkflowError
from graph_engine.editor.convert import is_editor_graph, to_api
from graph_engine.order import dependencies, needed
from graph_engine.validate import needs_classes, validate, wanted_nodes
from server.protocol.dependents import dependents
from server.protocol.errors import MISSING, members, missing_nodes, node_errors, refusal
from server.protocol.literals import meant
from server.runs import NewRun

__all__ = ["Declined", "Submission", "body_of"]

_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
_LONGEST = 256  # letters of a client id
_REASONS = 20  # problems that the summary names
_BEYOND = re.compile(rb"NaN|Infinity|[eE]\+?\d{3}|\d{300}")  # may be a number that is none, or that no float is as large as
Definitions = Callable[[], Mapping[str, Mapping[str, Any]]]


class Declined(Exception):
    """The request is answered with this status and body."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(body["error"])
        self.status, self.body = status, body


def body_of(body: bytes, *, empty: Any = None) -> dict[str, Any]:
    """The JSON object of a request, whatever its content type says; `empty` when there is no body and that is allowed.

    NaN and infinities are null, as the editor reads them. Raises Declined for anything else.
    """
    if not body.strip() and empty is not None:
        return dict(empty)
    try:
        found = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise Declined(400, refusal("invalid_json", "the body is not JSON", str(error))) from error
    if not isinstance(found, dict):
        raise Declined(400, refusal("invalid_json", "the body must be a JSON object"))
    return _finite(found) if _BEYOND.search(body) else found


@dataclass(slots=True)
class Submission:
    """A prompt that was read and checked as far as declarations can: `outputs` are its output nodes that were asked for."""

    new: NewRun
    workflow: Workflow
    specs: Mapping[str, NodeSpec]
    folders: Folders | None
    outputs: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, body: bytes, specs: Mapping[str, NodeSpec], folders: Folders | None, definitions: Definitions) -> Submission:
        """Read and check a request, whose prompt may also be a graph as the editor saves it, to be read with the `definitions`.

        Raises Declined when nothing of it can run whatever else is found.
        """
        request = body_of(body)
        prompt = request.get("prompt")
        if prompt is None:
            raise Declined(400, refusal("no_prompt", "no prompt was given", "the body must have `prompt`, a workflow in the API format"))
        extra = _extra(request)
        if is_editor_graph(prompt):
            prompt = _converted(prompt, definitions(), extra)
        if isinstance(prompt, dict):
            prompt = meant(prompt, specs)
        try:
            workflow = Workflow.from_json(prompt)
        except WorkflowError as error:
            raise Declined(400, _unreadable(error)) from error
        new = NewRun(
            id=_id(request.get("prompt_id")),
            # what stands in the document besides nodes is for editors only
            document=workflow.to_json() if workflow.faults or len(workflow.nodes) < len(prompt) else prompt,
            targets=(),
            extra=extra,
            client=_client(request.get("client_id")),
            front=bool(request.get("front")),
            number=_number(request.get("number")),
        )
        outputs = wanted_nodes(workflow, specs)
        if (targets := _targets(request.get("partial_execution_targets"))) is not None:
            outputs = [id for id in outputs if id in targets]
        made = cls(new, workflow, specs, folders, tuple(outputs))
        made._check()
        return made

    @property
    def needs_classes(self) -> bool:
        """Whether only the node classes, which a worker has, can judge all of it."""
        within = needed(dependencies(self.workflow), self.outputs)
        return needs_classes(Workflow({id: self.workflow.nodes[id] for id in within}), self.specs)

    def add(self, problems: Iterable[Problem]) -> None:
        """Take in what somebody else found, unless it is known."""
        known = {(each.code, each.node, each.field, each.message) for each in self.problems}
        for each in problems:
            if (each.code, each.node, each.field, each.message) not in known:
                self.problems.append(each)

    def settle(self) -> tuple[NewRun, dict[str, Any]]:
        """The run of those outputs that can run, and the errors of the nodes that keep the others from it.

        Raises Declined when none can.
        """
        if not self.problems:
            return dataclasses.replace(self.new, targets=self.outputs), {}
        behind = dependents(self.workflow, self.outputs)
        relevant = [each for each in self.problems if any(behind.get(node) for node in members(each))]
        bad = {output for each in relevant for node in members(each) for output in behind.get(node, ())}
        valid = tuple(output for output in self.outputs if output not in bad)
        errors = node_errors(relevant, self.workflow, self.specs, self.folders, behind)
        if not valid:
            details = "\n".join(map(str, relevant[:_REASONS]))
            raise Declined(400, refusal("prompt_outputs_failed_validation", "no output of the workflow can run", details, nodes=errors))
        return dataclasses.replace(self.new, targets=valid), errors

    def _check(self) -> None:
        found = validate(self.workflow, self.specs, self.folders, wanted=self.outputs or None)
        if missing := [each for each in found if each.code in MISSING]:
            raise Declined(400, missing_nodes(missing))
        if not self.outputs:
            effects = sorted(type for type, spec in self.specs.items() if spec.output and not spec.deprecated)
            raise Declined(
                400, refusal("prompt_no_outputs", "the workflow has no outputs to run", f"nodes with outputs: {', '.join(effects)}")
            )
        self.problems = found


def _unreadable(error: WorkflowError) -> dict[str, Any]:
    return refusal("invalid_prompt", "the prompt is not a workflow", "\n".join(map(str, error.problems[:_REASONS])))


def _converted(graph: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
    """The API form of a graph as the editor saves it, which then also goes into the files that the run writes."""
    try:
        prompt = to_api(graph, definitions, exact=False)
    except WorkflowError as error:
        raise Declined(400, _unreadable(error)) from error
    info = extra.setdefault("extra_pnginfo", {})
    if isinstance(info, dict):
        info.setdefault("workflow", graph)
    return prompt


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _extra(request: Mapping[str, Any]) -> dict[str, Any]:
    extra = request.get("extra_data")
    if extra is not None and not isinstance(extra, dict):
        raise Declined(400, refusal("invalid_extra_data", "extra_data must be an object"))
    kept = {name: value for name, value in (extra or {}).items() if name not in _SECRETS}
    return {**kept, "create_time": time.time_ns() // 1_000_000}


def _id(given: object) -> str:
    if given is None:
        return str(uuid.uuid4())
    try:
        if isinstance(given, str) and str(uuid.UUID(given)) == given:
            return given
    except ValueError:
        pass
    raise Declined(400, refusal("invalid_prompt_id", "prompt_id must be a UUID in lower case with dashes"))


def _client(given: object) -> str:
    if given is None or isinstance(given, bool):
        return ""
    if isinstance(given, (str, int)) and len(text := str(given)) <= _LONGEST:
        return text
    raise Declined(400, refusal("invalid_client_id", f"client_id must be a text of at most {_LONGEST} letters"))


def _number(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) <= 1e300 and math.isfinite(given):
        return float(given)
    raise Declined(400, refusal("invalid_number", "number must be a finite number"))


def _targets(given: object) -> Sequence[str] | None:
    if given is None:
        return None
    if isinstance(given, list) and all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in given):
        return [str(each) for each in given]
    raise Declined(400, refusal("invalid_targets", "partial_execution_targets must be a list of node ids"))
