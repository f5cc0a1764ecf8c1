"""The page behind a token, under a path of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture
def guarded(tmp_path: Path, running: Callable[..., Any], opened: Callable[..., Any]) -> Any:
    with running(tmp_path, "--base", "/studio/", LATENTGRAPH_TOKEN="open sesame") as server:
        yield server


def test_a_person_logs_in_and_the_editor_works_under_its_path(
    guarded: Any, opened: Callable[..., Any], picture: Callable[..., None]
) -> None:
    page, watch = opened(guarded.url, ready=False)
    watch.expected += [r"status 401: .*/studio/(login)?$", "console: Failed to load resource.* 401"]
    watch.expected += [r"status 401: http://[^/]+/assets/images/favicon_progress_"]  # which the editor looks for without the path
    assert guarded.url.endswith("/studio/")
    page.get_by_label("token").fill("wrong")
    page.get_by_role("button").click()
    page.get_by_role("alert").wait_for()
    picture(page, "login")
    page.get_by_label("token").fill("open sesame")
    page.get_by_role("button").click()
    page.wait_for_function("() => window.app?.graph && !document.querySelector('#splash-loader')")
    page.get_by_test_id("template-workflow-text_to_image").click()
    page.wait_for_function("() => window.app.graph.nodes.length > 0 && window.app.api.socket.readyState === 1")
    assert page.url.partition("#")[0] == guarded.url
    assert page.evaluate("document.cookie") == ""
