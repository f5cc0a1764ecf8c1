"""Operations on pictures and on the files that a user keeps."""

from __future__ import annotations

from server.openapi.operation import Operation, Parameter, Schema, array, binary, empty, json_body, mapping, ref

__all__ = ["FILES"]

_text: Schema = {"type": "string"}
_flag: Schema = {"type": "boolean"}
_kind: Schema = {"enum": ["input", "output", "temp"]}
_any_json = json_body({})
_refused = ("The request is not as described, or the name leads out of its folder.", ref("Refusal"))
_forbidden = ("The name leads out of its folder.", ref("Refusal"))
_missing = ("There is no such file.", ref("Refusal"))
_exists = ("There is such a file already.", ref("Refusal"))
_big = ("The body or the picture is too large.", ref("Refusal"))
_file = Parameter("file", "A path below the user's folder, with / written as %2F.", {"type": "string", "minLength": 1})
_overwrite = Parameter("overwrite", "Replace a file that is there.", _flag)
_full = Parameter("full_info", "Answer with size and times too.", _flag)


def _upload(**more: Schema) -> Schema:
    fields = {
        "image": {"type": "string", "format": "binary"},
        "type": _kind,
        "subfolder": _text,
        "overwrite": {"enum": ["true", "false", "1", "0"]},
        **more,
    }
    return {"multipart/form-data": {"schema": {"type": "object", "properties": fields, "required": ["image", *more]}}}


FILES = (
    Operation(
        "GET",
        "/view",
        "files",
        "A picture or other file that a run wrote or a client uploaded",
        {
            200: ("The file.", binary()),
            206: ("A part of it.", binary()),
            400: _refused,
            403: _forbidden,
            404: _missing,
            413: _big,
            416: ("No such part.", binary()),
        },
        query=(
            Parameter("filename", "Its name; may end in [input], [output] or [temp].", _text, required=True),
            Parameter("type", "The folder; output when not given.", _kind),
            Parameter("subfolder", "A folder in it.", _text),
            Parameter("preview", "Re-encode a picture: webp;90 or jpeg;80.", _text),
            Parameter("channel", "Colour only, or alpha only.", {"enum": ["rgba", "rgb", "a"]}),
        ),
    ),
    Operation(
        "POST",
        "/upload/image",
        "files",
        "Upload a picture",
        {200: ("Where it is now.", ref("StoredFile")), 400: _refused, 403: _forbidden, 413: _big},
        body=_upload(),
    ),
    Operation(
        "POST",
        "/upload/mask",
        "files",
        "Upload a mask; its alpha replaces that of the picture that original_ref names",
        {200: ("Where it is now.", ref("StoredFile")), 400: _refused, 403: _forbidden, 404: _missing, 413: _big},
        body=_upload(original_ref=_text),
    ),
    Operation(
        "GET",
        "/internal/files/{type}",
        "files",
        "Names of the files in a folder, the newest first",
        {200: ("The names.", json_body(array(_text))), 400: _refused},
        within=(Parameter("type", "The folder.", _kind),),
    ),
    Operation(
        "GET",
        "/internal/folder_paths",
        "files",
        "Where each kind of file is looked for",
        {200: ("Folders by kind.", json_body(mapping(array(_text))))},
    ),
    Operation("GET", "/users", "user", "How user data is kept; there is one user", {200: ("Always the server.", json_body(mapping()))}),
    Operation("POST", "/users", "user", "Add a user; there is one only", {400: ("Refused.", ref("Refusal")), 413: _big}, body=_any_json),
    Operation("GET", "/settings", "user", "All settings of the editor", {200: ("Values by id.", json_body(mapping()))}),
    Operation(
        "POST",
        "/settings",
        "user",
        "Change several settings",
        {200: ("Done.", json_body({"type": "null"})), 400: _refused, 413: _big},
        body=json_body(mapping()),
    ),
    Operation(
        "GET",
        "/settings/{id}",
        "user",
        "One setting",
        {200: ("Its value, or null.", _any_json)},
        within=(Parameter("id", "The setting.", {"type": "string", "minLength": 1}),),
    ),
    Operation(
        "POST",
        "/settings/{id}",
        "user",
        "Change one setting",
        {200: ("Done.", json_body({"type": "null"})), 400: _refused, 413: _big},
        within=(Parameter("id", "The setting.", {"type": "string", "minLength": 1}),),
        body=_any_json,
    ),
    Operation(
        "GET",
        "/userdata",
        "user",
        "The files that the user keeps in a folder",
        {
            200: ("Paths, [path, part, …] with split, or with full_info sizes and times too.", json_body(array({}))),
            400: _refused,
            403: _forbidden,
            404: _missing,
        },
        query=(
            Parameter("dir", "The folder.", _text, required=True),
            Parameter("recurse", "Folders in it too.", _flag),
            Parameter("split", "Paths in parts.", _flag),
            _full,
        ),
    ),
    Operation(
        "GET",
        "/v2/userdata",
        "user",
        "Files and folders of the user",
        {200: ("The entries.", json_body(array(mapping()))), 400: _refused, 403: _forbidden, 404: _missing},
        query=(Parameter("path", "The folder; the topmost when not given.", _text),),
    ),
    Operation(
        "GET",
        "/userdata/{file}",
        "user",
        "One file",
        {
            200: ("Its bytes.", binary()),
            206: ("A part.", binary()),
            400: _refused,
            403: _forbidden,
            404: _missing,
            416: ("No such part.", binary()),
        },
        within=(_file,),
    ),
    Operation(
        "POST",
        "/userdata/{file}",
        "user",
        "Write one file",
        {200: ("Its path, or with full_info size and times too.", _any_json), 400: _refused, 403: _forbidden, 409: _exists, 413: _big},
        within=(_file,),
        query=(_overwrite, _full),
        body={"application/octet-stream": {}},
        body_required=False,
    ),
    Operation(
        "DELETE",
        "/userdata/{file}",
        "user",
        "Delete one file",
        {204: ("Gone.", empty), 400: _refused, 403: _forbidden, 404: _missing},
        within=(_file,),
    ),
    Operation(
        "POST",
        "/userdata/{file}/move/{dest}",
        "user",
        "Rename one file",
        {
            200: ("Its new path, or with full_info size and times too.", _any_json),
            400: _refused,
            403: _forbidden,
            404: _missing,
            409: _exists,
        },
        within=(_file, Parameter("dest", "The new path.", {"type": "string", "minLength": 1})),
        query=(_overwrite, _full),
    ),
)
