"""What a person does on the editor's page, in words of the tests."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable
from typing import Any

QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MaximumFps": 20,
    "Comfy.Graph.CanvasInfo": False,
}
# what happens while a graph runs, as the page's own parts see it
LISTEN = """() => {
  window.seen = { events: [], running: {}, progress: {}, titles: [], previews: {} }
  for (const type of ['execution_start', 'execution_cached', 'executing', 'executed', 'execution_success', 'execution_error',
                      'execution_interrupted'])
    window.app.api.addEventListener(type, (event) => window.seen.events.push([type, event.detail]))
  window.app.api.addEventListener('b_preview_with_metadata', (event) => { window.seen.previews[event.detail.nodeId] = true })
  setInterval(() => {
    for (const node of window.app.graph.nodes) {
      if (node.strokeStyles?.running?.call(node)) window.seen.running[node.id] = true
      if (node.progress > 0 && node.progress < 1) window.seen.progress[node.id] = node.progress
    }
    if (window.seen.titles.at(-1) !== document.title) window.seen.titles.push(document.title)
  }, 10)
}"""
ENDED = "() => window.seen.events.some(([type]) => /success|error|interrupted/.test(type))"
DROP = """async ({ data, name, type }) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
  const transfer = new DataTransfer()
  transfer.items.add(new File([bytes], name, { type }))
  const canvas = document.querySelector('#graph-canvas')
  const where = { clientX: 700, clientY: 700, bubbles: true, cancelable: true, dataTransfer: transfer }
  canvas.dispatchEvent(new DragEvent('dragover', where))
  canvas.dispatchEvent(new DragEvent('drop', where))
}"""
Opened = Callable[..., tuple[Any, Any]]
Keep = Callable[[Any, str], None]


def asked(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def drop(page: Any, name: str, data: bytes, type: str) -> None:
    """Drop a file on the canvas."""
    page.evaluate(DROP, {"data": base64.b64encode(data).decode(), "name": name, "type": type})


def blank(page: Any) -> None:
    """Begin an empty graph."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => window.app.graph.nodes.length === 0")


def nodes(page: Any) -> int:
    return page.evaluate("window.app.graph.nodes.length")


def api_graph(page: Any) -> dict[str, Any]:
    return page.evaluate("window.app.graphToPrompt().then((made) => made.output)")


def put(page: Any, node: str, widget: str, value: object) -> None:
    """Change a widget, as an edit in the page does."""
    page.evaluate(
        """([id, name, value]) => {
          const node = window.app.graph.nodes.find((node) => String(node.id) === id)
          const widget = node.widgets.find((widget) => widget.name === name)
          widget.value = value
          widget.callback?.(value, window.app.canvas, node, [0, 0])
          window.app.graph.setDirtyCanvas(true, true)
        }""",
        [node, widget, value],
    )


def browse(page: Any) -> None:
    """Open the template browser, as its button in the side bar does."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")


def load(page: Any, template: str) -> None:
    browse(page)
    page.get_by_test_id(f"template-workflow-{template}").click()
    page.wait_for_function("() => window.app.graph.nodes.length > 0")
    page.get_by_test_id("template-workflows-content").wait_for(state="hidden")


def by_type(page: Any, kind: str) -> str:
    """The id of the only node of a type."""
    (found,) = page.evaluate("(kind) => window.app.graph.nodes.filter((node) => node.type === kind).map((node) => String(node.id))", kind)
    return found


def run(page: Any, until: str = ENDED) -> dict[str, Any]:
    """Press Run; what was seen until the run ended."""
    page.evaluate(
        "() => { window.seen.events.length = 0; window.seen.titles.length = 0; window.seen.running = {}; window.seen.progress = {} }"
    )
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(until)
    return page.evaluate("window.seen")


def of_type(seen: dict[str, Any], kind: str) -> list[Any]:
    return [detail for type_, detail in seen["events"] if type_ == kind]


def ran(seen: dict[str, Any]) -> set[str]:
    return {str(node) for node in of_type(seen, "executing") if node is not None}


def shown(page: Any, node: str) -> list[list[int]]:
    """Sizes of the pictures on a node, once they are there."""
    page.wait_for_function(
        """(id) => { const node = window.app.graph.nodes.find((node) => String(node.id) === id)
          return node.imgs?.length && node.imgs.every((image) => image.complete && image.naturalWidth) }""",
        arg=node,
    )
    return page.evaluate(
        """(id) => window.app.graph.nodes.find((node) => String(node.id) === id).imgs
          .map((image) => [image.naturalWidth, image.naturalHeight])""",
        node,
    )
