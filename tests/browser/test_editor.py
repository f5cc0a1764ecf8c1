"""The editor's page as a person uses it: open it, load a template, run, change, interrupt, save, drop a picture."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from driving import (
    ENDED,
    Keep,
    Opened,
    api_graph,
    asked,
    blank,
    by_type,
    drop,
    load,
    nodes,
    of_type,
    put,
    ran,
    run,
    shown,
)
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture
def short(editor: tuple[Any, Any]) -> tuple[Any, Any, str]:
    """Text to image with few steps; page, watch, and the sampler's id."""
    page, watch = editor
    load(page, "text_to_image")
    sampler = by_type(page, "KSampler")
    put(page, sampler, "steps", 3)
    put(page, by_type(page, "EmptyLatentImage"), "batch_size", 1)
    return page, watch, sampler


def test_a_first_visit_is_quiet_and_opens_the_templates(server: Any, opened: Opened, picture: Keep) -> None:
    (server.home / "user" / "default" / "comfy.settings.json").unlink(missing_ok=True)
    page, _ = opened(server.url)
    page.get_by_test_id("template-workflows-content").wait_for()
    templates = [template["name"] for group in asked(f"{server.url}templates/index.json") for template in group["templates"]]
    page.get_by_text("All Templates").click()
    for name in templates:
        card = page.get_by_test_id(f"template-workflow-{name}")
        for _ in range(100):  # the browser adds cards as one scrolls down
            if card.count():
                break
            page.get_by_test_id("template-workflows-content").hover()
            page.mouse.wheel(0, 500)
            page.wait_for_timeout(100)
        card.scroll_into_view_if_needed()
        page.wait_for_function(
            """(name) => { const images = document.querySelectorAll(`[data-testid="template-workflow-${name}"] img`)
              return images.length && [...images].every((image) => image.complete && image.naturalWidth) }""",
            arg=name,
        )
    picture(page, "templates")
    assert len(templates) >= 10
    assert page.get_by_test_id("queue-button").inner_text().strip() == "Run"
    known = set(page.evaluate("Object.keys(LiteGraph.registered_node_types)"))
    assert known >= set(asked(f"{server.url}api/object_info"))
    page.keyboard.press("Escape")
    page.get_by_test_id("template-workflows-content").wait_for(state="hidden")
    page.wait_for_timeout(1500)  # what a page asks for a second after it is ready
    assert page.evaluate("window.app.api.socket.readyState") == 1


def test_the_node_library_lists_our_categories(server: Any, editor: tuple[Any, Any], picture: Keep) -> None:
    page, _ = editor
    page.get_by_test_id("node-library-tab-button").click()
    known = asked(f"{server.url}api/object_info")
    wanted = {node["category"].split("/")[0] for node in known.values() if not node.get("deprecated")}
    for category in wanted:
        page.get_by_role("treeitem").filter(has_text=category).first.wait_for()
    picture(page, "library")
    page.get_by_placeholder("Search Nodes").fill("ksampler")
    page.get_by_role("treeitem").filter(has_text=known["KSampler"]["display_name"]).first.wait_for()
    picture(page, "library-search")
    assert wanted >= {"loaders", "sampling", "image", "mask"}


def test_a_template_runs_and_an_edit_runs_only_what_it_changed(short: tuple[Any, Any, str], server: Any, picture: Keep) -> None:
    page, _, sampler = short
    saver, decoder = by_type(page, "SaveImage"), by_type(page, "VAEDecode")
    put(page, sampler, "steps", 6)
    seen = run(page)
    assert [kind for kind, _ in seen["events"] if kind.startswith("execution_")] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert ran(seen) == set(api_graph(page))  # nothing was there before
    assert sampler in seen["running"]  # lit up while it ran
    assert 0 < seen["progress"][sampler] < 1
    assert sampler in seen["previews"]
    assert any("%]" in title for title in seen["titles"])
    assert shown(page, saver) == [[128, 128]]
    page.wait_for_timeout(500)
    picture(page, "result")
    files = list((server.home / "output").glob("text_to_image_*.png"))
    assert len(files) == 1

    put(page, saver, "filename_prefix", "again")
    seen = run(page)
    assert ran(seen) == {saver}
    assert set(of_type(seen, "execution_cached")[0]["nodes"]) == set(api_graph(page)) - {saver}
    assert shown(page, saver) == [[128, 128]]

    put(page, sampler, "cfg", 2.0)
    assert ran(run(page)) == {sampler, decoder, saver}

    seen = run(page)  # nothing changed
    assert ran(seen) == set()
    assert shown(page, saver) == [[128, 128]]
    assert len(list((server.home / "output").glob("again_*.png"))) == 2


def test_a_wrong_value_marks_its_node_until_it_is_mended(short: tuple[Any, Any, str], picture: Keep) -> None:
    page, watch, sampler = short
    watch.expected += ["status 400: .*/api/prompt", r"console: Failed to load resource.* 400", "console: PromptExecutionError"]
    put(page, sampler, "steps", 0)
    put(page, sampler, "sampler_name", "no_such_sampler")
    page.get_by_test_id("queue-button").click()
    marked = "() => window.app.graph.nodes.filter((node) => node.has_errors).map((node) => String(node.id))"
    page.wait_for_function(f"() => ({marked})().length > 0")
    assert page.evaluate(marked) == [sampler]
    page.wait_for_timeout(800)
    picture(page, "wrong-value")
    wrong = page.evaluate(
        """(id) => window.app.graph.nodes.find((node) => String(node.id) === id).inputs
          .filter((input) => input.hasErrors).map((input) => input.name)""",
        sampler,
    )
    assert set(wrong) == {"steps", "sampler_name"}
    watch.expected += [r"api\.comfy\.org"]  # the panel asks who makes these nodes; our policy keeps that from being sent
    page.get_by_text("View details").click()
    page.get_by_test_id("properties-panel").get_by_text("sampler_name").first.wait_for()
    picture(page, "wrong-value-details")
    put(page, sampler, "steps", 3)
    put(page, sampler, "sampler_name", "euler")
    assert of_type(run(page), "execution_success")
    assert page.evaluate(marked) == []


def test_a_run_can_be_interrupted_and_the_next_one_runs(short: tuple[Any, Any, str], server: Any, picture: Keep) -> None:
    page, _, sampler = short
    put(page, sampler, "steps", 900)
    put(page, sampler, "seed", 4711)
    run(page, until=f"() => window.seen.progress['{sampler}'] > 0")
    picture(page, "running")
    page.get_by_label("Cancel current run").first.click()
    page.wait_for_function(ENDED)
    seen = page.evaluate("window.seen")
    assert not of_type(seen, "execution_success")
    (interrupted,) = of_type(seen, "execution_interrupted")
    assert str(interrupted["node_id"]) == sampler
    page.wait_for_function("() => !Object.keys(window.app.graph.nodes.filter((node) => node.strokeStyles?.running?.call(node))).length")
    assert asked(f"{server.url}api/prompt") == {"exec_info": {"queue_remaining": 0}}
    put(page, sampler, "steps", 2)
    assert of_type(run(page), "execution_success")


def test_a_saved_picture_dropped_on_the_page_brings_the_graph_back(short: tuple[Any, Any, str], server: Any, picture: Keep) -> None:
    page, _, sampler = short
    put(page, by_type(page, "SaveImage"), "filename_prefix", "drop/me")
    put(page, sampler, "seed", 123456789)
    before = api_graph(page)
    assert of_type(run(page), "execution_success")
    (saved,) = (server.home / "output" / "drop").glob("me_*.png")
    blank(page)
    drop(page, "me.png", saved.read_bytes(), "image/png")
    page.wait_for_function("() => window.app.graph.nodes.length > 0")
    page.wait_for_timeout(500)
    picture(page, "dropped")
    assert api_graph(page) == before


def test_a_workflow_is_saved_and_opened_again_elsewhere(short: tuple[Any, Any, str], server: Any, opened: Opened, picture: Keep) -> None:
    page, _, sampler = short
    name = "my 100% wörkflow"
    put(page, sampler, "seed", 31415)
    page.evaluate("() => { window.app.extensionManager.command.execute('Comfy.SaveWorkflow') }")
    box = page.locator(".prompt-dialog-content input")
    box.wait_for()
    box.fill(name)
    picture(page, "save")
    box.press("Enter")
    file = server.home / "user" / "default" / "workflows" / f"{name}.json"
    page.wait_for_function("(name) => window.app.extensionManager.workflow.activeWorkflow?.path === `workflows/${name}.json`", arg=name)
    page.wait_for_function("() => !window.app.extensionManager.workflow.activeWorkflow.isModified")
    assert len(json.loads(file.read_text())["nodes"]) == nodes(page)
    saved = api_graph(page)

    put(page, sampler, "seed", 27182)  # and saved again under the same name
    page.evaluate("window.app.extensionManager.command.execute('Comfy.SaveWorkflow')")
    page.wait_for_function("() => !window.app.extensionManager.workflow.activeWorkflow.isModified")

    other, _ = opened(server.url)
    other.get_by_test_id("workflows-tab-button").click()
    other.get_by_text(name, exact=True).first.click()
    other.wait_for_function("(name) => window.app.extensionManager.workflow.activeWorkflow?.path === `workflows/${name}.json`", arg=name)
    picture(other, "reopened")
    saved[sampler]["inputs"]["seed"] = 27182
    assert api_graph(other) == saved


def test_the_panels_show_what_ran(short: tuple[Any, Any, str], picture: Keep) -> None:
    page, _, sampler = short
    put(page, sampler, "seed", 99)
    assert of_type(run(page), "execution_success")
    page.get_by_test_id("assets-tab-button").click()
    page.get_by_text("text_to_image_").first.wait_for()
    picture(page, "assets")
    page.get_by_test_id("assets-tab-button").click()
    page.get_by_test_id("queue-overlay-toggle").click()
    page.get_by_text("text_to_image_").first.wait_for()
    page.evaluate("window.app.extensionManager.command.execute('Workspace.ToggleBottomPanelTab.logs-terminal')")
    page.get_by_test_id("terminal-root").get_by_text("is ready").first.wait_for()
    page.evaluate("window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Memory.UnloadModelsAndExecutionCache')")
    page.wait_for_timeout(1000)
    picture(page, "jobs-and-console")


def test_a_picture_dropped_on_the_page_is_uploaded_and_shown(server: Any, editor: tuple[Any, Any], picture: Keep) -> None:
    page, watch = editor
    watch.expected += [
        r"404.*an\+orange",
        "Failed to load resource.* 404",
    ]  # the page may look before its upload has arrived, and looks again
    drawn = io.BytesIO()
    Image.new("RGB", (48, 32), (250, 120, 0)).save(drawn, "PNG")
    drop(page, "an orange.png", drawn.getvalue(), "image/png")
    page.wait_for_function("() => window.app.graph.nodes[0]?.imgs?.[0]?.naturalWidth === 48")  # at first the default
    assert shown(page, by_type(page, "LoadImage")) == [[48, 32]]
    (node,) = api_graph(page).values()
    assert node["inputs"]["image"] == "an orange.png"
    assert (server.home / "input" / "an orange.png").read_bytes() == drawn.getvalue()
    picture(page, "uploaded")
