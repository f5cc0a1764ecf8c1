"""The inputs that a node shows in the editor: sockets and widgets, with the values a saved list of them means."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graph_engine.editor.literal import MISSING, absent, as_script_text

__all__ = ["DYNAMIC", "Field", "Values", "fields", "first_choice", "order", "saved_values", "walk", "without_forced"]

_PLAIN: dict[str, Any] = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": "", "TEXTAREA": "", "COLOR": "#000000"}
_STRUCTURED: dict[str, Any] = {
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0, "max": 1},
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "BOUNDING_BOXES": [],
    "COLORS": [],
    "CHART": {},
    "GALLERIA": [],
    "PAINTER": MISSING,
    "VIDEO_EDIT": {"trim": {"start_time": 0, "duration": 0}, "crop": {"x": 0, "y": 0, "width": 0, "height": 0}},
}
_UNSAVED: dict[str, Any] = {"IMAGECOMPARE": ["", ""], "RESOLUTION_PREVIEW": MISSING}  # widgets that take no part in the list
_WIDGETS = {*_PLAIN, *_STRUCTURED, *_UNSAVED, "COMBO", "MARKDOWN"}
_GROW, _CHOICE, _GROUP, _MATCH = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_DYNAMICGROUP_V3", "COMFY_MATCHTYPE_V3"
_BUTTON = "button"  # what shows the file dialog of an upload
_UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
DYNAMIC = (_CHOICE, _GROUP)
_MOST = 100  # inputs that one growing input may have


@dataclass(frozen=True, slots=True)
class Field:
    """One input as the editor shows it; only a widget has a value, and only some widgets are sockets too."""

    name: str
    type: str
    options: Mapping[str, Any]
    widget: bool
    value: Any = MISSING
    socket: bool = True


def fields(definition: Mapping[str, Any], values: Sequence[Any], linkable: Sequence[str] = ()) -> list[Field]:
    """The inputs of a node in the order of its sockets: pure sockets first, then widgets.

    `values` is the saved list, read by position; `linkable` are the saved names of inputs, which tell how far a growing
    input had grown.
    """
    found = [*walk(definition, _Listed(values), linkable)]
    return [entry for entry in found if not entry.widget] + [entry for entry in found if entry.widget]


def saved_values(definition: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[Field], list[Any]]:
    """The inputs of a node whose widgets hold the `given` values, and the list in which they are saved."""
    slots = _Given(given)
    found = [*walk(definition, slots, [*given])]
    held = {entry.name: entry.value for entry in found}
    values = [held.get(name) if value is MISSING else value for name, value in slots.taken]
    ordered = [entry for entry in found if not entry.widget] + [entry for entry in found if entry.widget]
    return ordered, [None if value is MISSING else value for value in values]


class Values(Protocol):
    def take(self, name: str, aside: Any = None) -> Any:
        """The next saved value, MISSING when there is none; `aside` is what a widget of no input is saved with."""


class _Listed:
    """Values read from a saved list."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._rest = iter(values)

    def take(self, name: str, aside: Any = None) -> Any:
        return next(self._rest, MISSING)


class _Given:
    """Values by name, which are noted in the order of the list that will hold them."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.taken: list[tuple[str, Any]] = []

    def take(self, name: str, aside: Any = None) -> Any:
        value = aside if name == "" else self._given.get(name, MISSING)
        self.taken.append((name, value))
        return value


def order(inputs: object, listed: object = None) -> list[tuple[str, Any]]:
    """The (name, specification) of declared inputs: required, optional, then those no order names."""
    if not isinstance(inputs, Mapping):
        return []
    found: list[tuple[str, Any]] = []
    seen: set[str] = set()
    declared = {
        str(name): spec
        for kind in ("required", "optional")
        if isinstance(section := inputs.get(kind), Mapping)
        for name, spec in section.items()
    }
    if isinstance(listed, Mapping):
        for kind in ("required", "optional"):
            names = listed.get(kind)
            for name in names if isinstance(names, (list, tuple)) else ():
                if isinstance(name, str) and name in declared and name not in seen:
                    seen.add(name)
                    found.append((name, declared[name]))
    found += [(name, spec) for name, spec in declared.items() if name not in seen]
    return found


def without_forced(definition: Mapping[str, Any], values: Sequence[Any]) -> Sequence[Any]:
    """The saved list without the values of inputs that are sockets only, if it has one for each input (section 5.5)."""
    forced: list[bool] = []
    for _name, spec in order(definition.get("input"), definition.get("input_order")):
        type, options = _read(spec)
        if _forced(options):
            forced.append(True)
        elif type in _WIDGETS or type == _CHOICE:
            forced.append(False)
        else:
            continue
        if options.get("control_after_generate"):
            forced.append(False)
    if any(forced) and len(forced) == len(values):
        return [value for value, drop in zip(values, forced, strict=True) if not drop]
    return values


def walk(definition: Mapping[str, Any], saved: Values, linkable: Sequence[str]) -> Iterator[Field]:
    """The inputs of a node in the order of its declaration, as its values are taken one after the other."""
    waiting = deque(order(definition.get("input"), definition.get("input_order")))
    while waiting:
        name, spec = waiting.popleft()
        type, options = _read(spec)
        if type == _GROW:
            waiting.extendleft(reversed(_grown(name, options, linkable)))
        elif type == _CHOICE:
            held = saved.take(name)
            value, inside, buttons = _chosen(name, options, held)
            yield Field(name, type, options, True, value)
            if held is not MISSING and absent(held):  # what it stands for shows only after the list has been read
                yield from walk({"input": {"required": dict(inside)}}, _Listed(()), linkable)
                continue
            waiting.extendleft([("", [_BUTTON])] * buttons)
            waiting.extendleft(reversed(inside))
        elif type == _BUTTON:
            saved.take("", "image")
        elif type == _GROUP:
            count = saved.take(name)
            repeated = _repeated(name, options, count)
            if repeated is None:  # the editor gives up on the rest of the list
                saved, repeated = _Listed(()), _repeated(name, options, MISSING) or []
            waiting.extendleft(reversed(repeated))
        elif type not in _WIDGETS or _forced(options):
            template = options.get("template")
            if type == _MATCH and isinstance(template, Mapping) and isinstance(template.get("allowed_types"), str):
                type = template["allowed_types"]
            yield Field(name, type, options, False)
        elif type in _UNSAVED:
            yield Field(name, type, options, True, _UNSAVED[type])
        else:
            yield Field(name, type, options, True, _restored(type, options, saved.take(name)))
            yield from _extras(name, type, options, saved)


def _read(spec: object) -> tuple[str, Mapping[str, Any]]:
    """Type and options of a V1 input specification; a list of choices stands for COMBO (section 3.2)."""
    if not isinstance(spec, (list, tuple)) or not spec:
        return "", {}
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    if isinstance(spec[0], (list, tuple)):
        return "COMBO", {**options, "options": spec[0]}
    type = options.get("widgetType") if isinstance(options.get("widgetType"), str) else spec[0]
    return (type if isinstance(type, str) else ""), options


def _forced(options: Mapping[str, Any]) -> bool:
    return bool(options.get("forceInput") or options.get("defaultInput"))


def _controlled(name: str, type: str, options: Mapping[str, Any]) -> bool:
    """Whether a widget saying what happens to the value after a run follows it."""
    asked = options.get("control_after_generate")
    if type == "INT" and name in ("seed", "noise_seed"):
        return asked is None or bool(asked)
    return type in ("INT", "FLOAT", "COMBO") and bool(asked)


def _restored(type: str, options: Mapping[str, Any], saved: Any) -> Any:
    if saved is MISSING:
        return _default(type, options)
    if type == "MARKDOWN" or (type == "STRING" and options.get("multiline")):
        return as_script_text(saved)
    if type == "COMBO" and absent(saved):
        return "" if _several(options) else first_choice(options)
    return saved


def _default(type: str, options: Mapping[str, Any]) -> Any:
    if type == "MARKDOWN":
        return ""
    if type == "COMBO" and _several(options):
        return []
    default = options.get("default")
    if default is not None:
        return default
    if type == "COMBO":
        return first_choice(options, "Loading..." if options.get("remote") else MISSING)
    return _PLAIN[type] if type in _PLAIN else _STRUCTURED[type]


def _several(options: Mapping[str, Any]) -> bool:
    """Whether a choice takes several values: a mapping of display options counts even when empty."""
    asked = options.get("multi_select")
    return bool(asked) or isinstance(asked, Mapping)


def first_choice(options: Mapping[str, Any], otherwise: Any = None) -> Any:
    """What a choice falls back on when its value is null."""
    choices = options.get("options")
    return choices[0] if isinstance(choices, (list, tuple)) and choices else otherwise


def _extras(name: str, type: str, options: Mapping[str, Any], saved: Values) -> Iterator[Field]:
    """Passes over the saved values of the widgets that accompany a widget (section 5.5)."""
    if _controlled(name, type, options):
        saved.take("", "fixed")
        if type == "COMBO":
            saved.take("", "")  # the filter of a controlled choice
    if type == "BOUNDING_BOX":
        for _side in range(4):
            saved.take("")
    remote = options.get("remote")
    if type == "COMBO" and isinstance(remote, Mapping):
        saved.take("", False)  # whether it refreshes by itself
        if remote.get("refresh_button"):  # a button whose value the editor submits too
            shown = saved.take("refresh")
            yield Field("refresh", "", {}, True, "refresh" if shown is MISSING else shown, socket=False)


def _chosen(name: str, options: Mapping[str, Any], saved: Any) -> tuple[Any, list[tuple[str, Any]], int]:
    """The key chosen among several sets of inputs, the inputs of that set, and how many upload buttons follow them."""
    found = options.get("options")
    sets = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, (list, tuple)) else []
    value = saved if not absent(saved) else (sets[0].get("key") if sets else None)
    chosen = next((entry for entry in sets if entry.get("key") == value), None)
    inside = [] if chosen is None else order(chosen.get("inputs"))
    shown = [inside] if chosen is None or chosen is sets[0] else [inside, order(sets[0].get("inputs"))]
    buttons = sum(any(_read(spec)[1].get(kind) for kind in _UPLOADS) for inputs in shown for _, spec in inputs)
    return value, [(f"{name}.{inner}", spec) for inner, spec in inside], buttons


def _grown(name: str, options: Mapping[str, Any], linkable: Sequence[str]) -> list[tuple[str, Any]]:
    """The inputs of a growing input: one more than it needs, or as many as were saved."""
    template = options.get("template")
    inner = order(template.get("input")) if isinstance(template, Mapping) else []
    if not isinstance(template, Mapping) or not inner:
        return []
    names = template.get("names")
    most = template.get("max")
    most = min(most, _MOST) if isinstance(most, int) else _MOST
    if isinstance(names, (list, tuple)):
        ends = [str(end) for end in names][:_MOST]
    else:
        prefix = template.get("prefix")
        ends = [f"{prefix if isinstance(prefix, str) else ''}{n}" for n in range(max(most, 0))]
    least = template.get("min")
    count = (least if isinstance(least, int) else 0) + 1
    known = {entry for entry in linkable if entry.startswith(f"{name}.")}
    if known:
        count = max([count, *(n + 1 for n, end in enumerate(ends) if f"{name}.{end}" in known)])
    return [(f"{name}.{end}", inner[0][1]) for end in ends[:count]]


def _repeated(name: str, options: Mapping[str, Any], saved: Any) -> list[tuple[str, Any]] | None:
    """The inputs of a repeated group, whose saved value is how often it repeats; None when that is out of bounds."""
    template = options.get("template")
    if not isinstance(template, Mapping):
        return []
    least, most = options.get("min"), options.get("max")
    least = least if isinstance(least, int) else 0
    count = least if saved is MISSING else saved
    if not isinstance(count, int) or not least <= count <= (min(most, _MOST) if isinstance(most, int) else 20):
        return None if saved is not MISSING else []
    return [(f"{name}.{n}.{inner}", spec) for n in range(count) for inner, spec in order(template)]
