"""What there is to draw with: node types and their help, model files, and the example graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from graph_engine.suggest import show
from server import models, templates
from server.hub import features as flags
from server.manual import page
from server.refusal import Refused

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["routes"]

_ASK = {"Cache-Control": "no-cache"}
_START = Path(__file__).parent.parent / "start.js"


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/object_info", object_info),
        Route("/object_info/{node_class:rest}", one_node),
        Route("/docs/{node_class}/{page}", manual),
        Route("/extensions/{package}/docs/{node_class}/{page}", manual),
        Route("/embeddings", embeddings),
        Route("/models", kinds),
        Route("/models/{folder}", names),
        Route("/experiment/models", folders),
        Route("/experiment/models/{folder}", files),
        Route("/view_metadata/{folder}", metadata),
        Route("/features", features),
        Route("/extensions", extensions),
        Route("/extensions/latentgraph/start.js", start),
        Route("/i18n", nothing_named),
        Route("/global_subgraphs", nothing_named),
        Route("/global_subgraphs/{id}", no_subgraph),
        Route("/node_replacements", nothing_named),
        Route("/workflow_templates", nothing_named),
        Route("/templates/{file}", template),
    ]


async def object_info(request: Request) -> Response:
    """All node types with their inputs and outputs."""
    server: ServerState = request.app.state.server
    text, tag = await run_in_threadpool(server.definitions.encoded)
    headers = {**_ASK, "ETag": f'"{tag}"'}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="application/json")


async def one_node(request: Request) -> Response:
    """One node type; an empty object when there is none of this name."""
    server: ServerState = request.app.state.server
    name = request.path_params["node_class"]
    found = (await run_in_threadpool(server.definitions)).get(name)
    return JSONResponse({} if found is None else {name: found})


async def manual(request: Request) -> Response:
    """The help page of a node type, in English whatever language is asked for."""
    server: ServerState = request.app.state.server
    name, wanted = request.path_params["node_class"], request.path_params["page"]
    spec = server.specs.get(name)
    if spec is None or not wanted.endswith(".md"):
        raise Refused(404, f"there is no page {show(wanted)} about {show(name)}")
    return Response(page(spec), headers=_ASK, media_type="text/markdown")


async def embeddings(request: Request) -> Response:
    """The names of the embeddings, as a prompt mentions them: without the end of the file name."""
    server: ServerState = request.app.state.server
    found = await run_in_threadpool(server.folders.list, "embeddings")
    return JSONResponse([name.rpartition(".")[0] or name for name in found])


async def kinds(request: Request) -> Response:
    """The kinds of model files."""
    return JSONResponse(list(models.KINDS))


async def names(request: Request) -> Response:
    """The names of the model files of a kind."""
    server: ServerState = request.app.state.server
    return JSONResponse(await run_in_threadpool(models.names, server.specs, server.folders, _kind(request)))


async def folders(request: Request) -> Response:
    """The kinds of model files with the folders that they are looked for in."""
    server: ServerState = request.app.state.server
    return JSONResponse([{"name": kind, "folders": [str(place) for place in server.folders.places(kind)]} for kind in models.KINDS])


async def files(request: Request) -> Response:
    """The model files of a kind with sizes in bytes and times in milliseconds."""
    server: ServerState = request.app.state.server
    return JSONResponse(await run_in_threadpool(models.files, server.folders, _kind(request)))


async def metadata(request: Request) -> Response:
    """What a safetensors file says about itself; an empty object when it says nothing."""
    server: ServerState = request.app.state.server
    name = request.query_params.get("filename", "")
    try:
        found = await run_in_threadpool(models.metadata, server.specs, server.folders, _kind(request), name)
    except FileNotFoundError as error:
        raise Refused(404, str(error)) from error
    except ValueError as error:
        raise Refused(400, str(error)) from error
    return JSONResponse(found)


async def features(request: Request) -> Response:
    """What the server can, as it is also told over the WebSocket."""
    server: ServerState = request.app.state.server
    return JSONResponse(flags(server.settings.body_limit))


async def extensions(request: Request) -> Response:
    """The scripts that are added to the editor."""
    return JSONResponse(["/extensions/latentgraph/start.js"])


async def start(request: Request) -> Response:
    """The script that says which graph a new browser begins with."""
    return FileResponse(_START, headers=_ASK, media_type="text/javascript")


async def nothing_named(request: Request) -> Response:
    """An empty object: no translations, shared subgraphs, renamed node types or templates of other packages."""
    return JSONResponse({})


async def no_subgraph(request: Request) -> Response:
    """Refused: there are no shared subgraphs."""
    raise Refused(404, f"there is no subgraph {show(request.path_params['id'])}")


async def template(request: Request) -> Response:
    """A file of the template browser: its index, a graph in the editor's format, or a picture of what the graph makes."""
    server: ServerState = request.app.state.server
    file = request.path_params["file"]
    if file == "index_logo.json":
        return JSONResponse({})
    if file == "index.json":
        return JSONResponse(await run_in_threadpool(templates.index, server.specs), headers=_ASK)
    if (picture := templates.thumbnail(file)) is not None:
        return FileResponse(picture, headers=_ASK, media_type="image/webp")
    graph = await run_in_threadpool(templates.graph, file, server.definitions)
    if graph is None:
        raise Refused(404, f"there is no template file {show(file)}")
    return JSONResponse(graph, headers=_ASK)


def _kind(request: Request) -> str:
    kind: str = request.path_params["folder"]
    if kind not in models.KINDS:
        raise Refused(404, f"{show(kind)} is not a kind of model; kinds are {', '.join(models.KINDS)}")
    return kind
