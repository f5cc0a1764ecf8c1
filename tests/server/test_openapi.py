"""The table of operations and the routes are the same, and what the server answers is what the table says."""

import re

import jsonschema
import pytest
from starlette.routing import Route

from server import pages
from server.openapi import document
from server.openapi.document import OPERATIONS
from server.routes import files, nodes, runs, settings, system, userdata

PARTS = (runs, nodes, files, userdata, settings, system)


def normal(path):
    return re.sub(r"\{[^}]*\}", "{}", path)


def routed():
    found = set()
    for part in PARTS:
        for route in part.routes():
            assert isinstance(route, Route), route
            found |= {(method, normal(route.path)) for method in route.methods or () if method != "HEAD"}
    return found


def test_every_route_is_described_and_every_description_is_routed():
    described = {(each.method, normal(each.path)) for each in OPERATIONS}
    renaming = {("POST", "/userdata/{}/move/{}")}  # one route with writing, since both names may hold slashes
    assert described - renaming == routed()


def test_operations_have_names_of_their_own():
    names = [operation["operationId"] for path in document()["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere():
    made = document()
    known = made["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/(\w+)", repr(made)):
        assert name in known
    for schema in known.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_path_parts_are_declared():
    for each in OPERATIONS:
        assert re.findall(r"\{(\w+)\}", each.path) == [part.name for part in each.within]


def test_a_token_is_asked_for_when_there_is_one():
    assert "security" not in document()
    made = document("/studio/", token=True)
    assert made["security"] == [{"token": []}]
    assert made["servers"] == [{"url": "/studio/"}]
    assert all("401" in operation["responses"] for path in made["paths"].values() for operation in path.values())


def test_the_pages_come_last_and_take_nothing_of_the_api():
    assert {route.path for route in pages.routes(None) if isinstance(route, Route)} == {"/", "/index.html", "/user.css"}


@pytest.mark.parametrize("each", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_every_answer_has_words(each):
    assert each.summary
    assert all(meaning for meaning, _ in each.answers.values())
