"""Operations that tell what there is to draw with: node types, models, templates."""

from __future__ import annotations

from server.openapi.operation import Operation, Parameter, Schema, array, binary, empty, json_body, mapping, ref

__all__ = ["NODES"]

_text: Schema = {"type": "string"}
_names = json_body(array(_text))
_object = json_body(mapping())
_missing = ("There is none of this name.", ref("Refusal"))
_refused = ("The name leads out of its folder, or is no name.", ref("Refusal"))


def _part(name: str, meaning: str) -> tuple[Parameter, ...]:
    return (Parameter(name, meaning, {"type": "string", "minLength": 1}),)


NODES = (
    Operation(
        "GET",
        "/object_info",
        "nodes",
        "All node types with their inputs and outputs",
        {200: ("Definitions by type.", _object), 304: ("Unchanged.", empty)},
    ),
    Operation(
        "GET",
        "/object_info/{node_class}",
        "nodes",
        "One node type",
        {200: ("Its definition by type; an empty object when there is none.", _object)},
        within=_part("node_class", "The type."),
    ),
    Operation(
        "GET",
        "/docs/{node_class}/{page}",
        "nodes",
        "The help page of a node type",
        {200: ("Markdown.", binary("text/markdown")), 404: _missing},
        within=(*_part("node_class", "The type."), *_part("page", "A language, such as en.md.")),
    ),
    Operation(
        "GET",
        "/extensions/{package}/docs/{node_class}/{page}",
        "nodes",
        "The help page of a node type of a package",
        {200: ("Markdown.", binary("text/markdown")), 404: _missing},
        within=(*_part("package", "The package."), *_part("node_class", "The type."), *_part("page", "A language, such as en.md.")),
    ),
    Operation("GET", "/embeddings", "nodes", "Names of the embeddings", {200: ("The names.", _names)}),
    Operation("GET", "/models", "nodes", "Kinds of model files", {200: ("The kinds.", _names)}),
    Operation(
        "GET",
        "/models/{folder}",
        "nodes",
        "Names of the model files of a kind",
        {200: ("The names.", _names), 404: _missing},
        within=_part("folder", "The kind."),
    ),
    Operation(
        "GET", "/experiment/models", "nodes", "Kinds of model files with their folders", {200: ("The kinds.", json_body(array(mapping())))}
    ),
    Operation(
        "GET",
        "/experiment/models/{folder}",
        "nodes",
        "Model files of a kind with sizes and times",
        {200: ("The files.", json_body(array(mapping()))), 404: _missing},
        within=_part("folder", "The kind."),
    ),
    Operation(
        "GET",
        "/view_metadata/{folder}",
        "nodes",
        "The metadata inside a safetensors file",
        {200: ("The metadata.", _object), 400: _refused, 404: _missing},
        within=_part("folder", "The kind."),
        query=(Parameter("filename", "The file.", _text, required=True),),
    ),
    Operation("GET", "/extensions", "editor", "Scripts that the editor loads", {200: ("Their paths.", _names)}),
    Operation(
        "GET",
        "/extensions/latentgraph/start.js",
        "editor",
        "The script that says which graph a new browser begins with",
        {200: ("The script.", binary("text/javascript"))},
    ),
    Operation("GET", "/features", "editor", "What the server can", {200: ("By name.", _object)}),
    Operation("GET", "/i18n", "editor", "Translations", {200: ("By language.", _object)}),
    Operation("GET", "/global_subgraphs", "editor", "Subgraphs that come with node packages", {200: ("By id.", _object)}),
    Operation("GET", "/global_subgraphs/{id}", "editor", "One of these subgraphs", {404: _missing}, within=_part("id", "Its id.")),
    Operation(
        "GET", "/node_replacements", "editor", "Node types that have taken the place of others", {200: ("By the old type.", _object)}
    ),
    Operation("GET", "/workflow_templates", "editor", "Templates that come with node packages", {200: ("Names by package.", _object)}),
    Operation(
        "GET",
        "/templates/{file}",
        "editor",
        "The template browser's index, graphs and thumbnails",
        {200: ("The file.", binary()), 404: _missing},
        within=_part("file", "Its name."),
    ),
)
