"""Submit, queue, history and jobs over HTTP, in the shapes that the editor and the SDKs read."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from standing import Standing
from told_nodes import doc

GOOD = doc(n=("Number", {"value": 3}), s=("Show", {"what": "@n"}))
BAD = doc(n=("Number", {"value": 300}), s=("Show", {"what": "@n"}))
FAILING = doc(f=("Fail", {}), s=("Show", {"what": "@f"}))


@pytest.fixture
def there(tmp_path):
    return Standing(tmp_path)


def test_a_prompt_is_accepted_and_numbered(there):
    answer = there.post("/prompt", {"prompt": GOOD, "client_id": "me"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    first = answer.json()
    assert (first["number"], first["node_errors"]) == (1, {})
    assert str(uuid.UUID(first["prompt_id"])) == first["prompt_id"]
    assert there.post("/api/prompt", {"prompt": GOOD}).json()["number"] == 2
    assert there.post("/prompt", {"prompt": GOOD, "front": True}).json()["number"] == -3
    assert there.post("/prompt", {"prompt": GOOD, "number": 1.5}).json()["number"] == 1.5
    assert there.get("/prompt") == {"exec_info": {"queue_remaining": 4}}


def test_an_id_is_used_once(there):
    id = str(uuid.uuid4())
    assert there.submit(GOOD, prompt_id=id) == id
    answer = there.post("/prompt", {"prompt": GOOD, "prompt_id": id})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_prompt_id")


def test_a_wrong_prompt_is_refused_on_its_nodes(there):
    answer = there.post("/prompt", {"prompt": BAD})
    assert answer.status_code == 400
    errors = answer.json()["node_errors"]
    assert errors["n"]["errors"][0]["extra_info"]["input_name"] == "value"
    assert there.get("/prompt") == {"exec_info": {"queue_remaining": 0}}
    assert there.post("/prompt", b"{").status_code == 400
    assert there.post("/prompt").json()["error"]["type"] == "invalid_json"


def test_what_is_valid_runs_and_the_rest_is_reported(there):
    document = {**GOOD, "b": BAD["n"], "t": {"class_type": "Show", "inputs": {"what": ["b", 0]}}}
    answer = there.post("/prompt", {"prompt": document}).json()
    assert answer["node_errors"]["b"]["dependent_outputs"] == ["t"]
    there.dispatcher.step()
    assert there.get(f"/history/{answer['prompt_id']}")[answer["prompt_id"]]["outputs"] == {"s": {"text": ["3"]}}


def test_a_worker_is_asked_what_only_classes_know(there):
    document = doc(p=("Pair", {"a": 13}))
    answer = there.post("/prompt", {"prompt": document})
    assert answer.status_code == 400
    assert answer.json()["node_errors"]["p"]["errors"][0]["details"] == "a - brings bad luck"
    there.dispatcher.asleep = True  # nobody can say in time: the run will tell
    assert there.post("/prompt", {"prompt": document}).status_code == 200


def test_a_full_queue_is_said_so(tmp_path):
    there = Standing(tmp_path, queue_limit=2)
    there.submit(GOOD), there.submit(GOOD)
    answer = there.post("/prompt", {"prompt": GOOD})
    assert (answer.status_code, answer.json()["error"]["type"], answer.headers["retry-after"]) == (429, "queue_full", "1")
    there.dispatcher.step()
    there.submit(GOOD)


def test_a_large_prompt_is_read_aside(there):
    document = {"n": GOOD["n"]} | {str(i): {"class_type": "Add", "inputs": {"a": [str(i - 1) if i else "n", 0]}} for i in range(1500)}
    document["s"] = {"class_type": "Show", "inputs": {"what": ["1499", 0]}}
    there.submit(document)
    document["700"]["inputs"]["b"] = "x"
    answer = there.post("/prompt", {"prompt": document})
    assert answer.json()["node_errors"].keys() == {"700"}


def test_the_queue_is_shown_in_the_order_it_will_run(there):
    first, second, third = there.submit(GOOD), there.submit(GOOD, client_id="me", extra_data={"x": 1}), there.submit(GOOD, front=True)
    there.dispatcher.begin()
    shown = there.get("/queue")
    assert [row[1] for row in shown["queue_running"]] == [third]
    assert [row[1] for row in shown["queue_pending"]] == [first, second]
    number, id, document, extra, outputs = shown["queue_pending"][1]
    assert (number, id, document, outputs, extra["x"]) == (2, second, GOOD, ["s"], 1)


def test_waiting_runs_are_taken_out(there):
    ids = [there.submit(GOOD) for _ in range(4)]
    there.dispatcher.begin()
    assert there.post("/queue", {"delete": [ids[0], ids[2], "unknown"]}).content == b""
    assert [row[1] for row in there.get("/queue")["queue_pending"]] == [ids[1], ids[3]]  # the running one stays
    assert there.post("/queue", {"clear": True}).status_code == 200
    assert there.get("/prompt") == {"exec_info": {"queue_remaining": 1}}
    assert there.get("/history") == {}
    assert there.get(f"/jobs/{ids[3]}")["status"] == "cancelled"


def test_the_history_of_a_run(there):
    id = there.submit(GOOD, extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}, "api_key_comfy_org": "s3cret"})
    assert there.get(f"/history/{id}") == {}  # it only waits
    there.dispatcher.step()
    entry = there.get(f"/history/{id}")[id]
    assert entry["prompt"][:3] == [1, id, GOOD]
    assert entry["prompt"][3]["extra_pnginfo"] == {"workflow": {"id": "w"}}
    assert "s3cret" not in there.client.get("/history").text
    assert entry["prompt"][4] == ["s"]
    assert entry["outputs"] == {"s": {"text": ["3"]}}
    assert entry["meta"]["s"] == {"node_id": "s", "display_node": "s", "parent_node": None, "real_node_id": "s"}
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("success", True)
    assert [type for type, _ in entry["status"]["messages"]] == ["execution_start", "execution_cached", "execution_success"]


def test_the_history_of_a_failure(there):
    id = there.submit(FAILING)
    there.dispatcher.step()
    status = there.get(f"/api/history/{id}")[id]["status"]
    assert (status["status_str"], status["completed"], status["messages"][-1][0]) == ("error", False, "execution_error")


def test_history_by_page(there):
    ids = [there.submit(GOOD) for _ in range(120)]
    for _ in ids:
        there.dispatcher.step()
    assert list(there.get("/history")) == ids
    assert list(there.get("/history?max_items=3")) == ids[-3:]
    assert list(there.get("/history?max_items=2&offset=1")) == ids[1:3]
    assert list(there.get("/history?offset=118")) == ids[118:]
    assert list(there.get("/history?max_items=2&offset=-1")) == ids[-2:]
    assert there.get("/history?max_items=0") == {}
    assert there.get("/history/unknown") == {}
    for query in ("max_items=x", "offset=1.5", "max_items=99999999999999999999", "offset=-2", "max_items=²"):
        assert there.client.get(f"/history?{query}").status_code == 400
    there.post("/history", {"delete": ids[:119]})
    assert list(there.get("/history")) == ids[119:]
    there.post("/history", {"clear": True})
    assert there.get("/history") == {}


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("body", [b"{", b"[]", {"clear": "yes"}, {"delete": "x"}, {"delete": [1]}])
def test_a_malformed_change_is_refused(there, path, body):
    there.submit(GOOD)
    answer = there.post(path, body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
    assert there.get("/prompt") == {"exec_info": {"queue_remaining": 1}}


def test_interrupt_with_and_without_an_id(there):
    assert there.post("/interrupt").status_code == 200
    assert there.post("/interrupt", {}).status_code == 200
    assert there.post("/interrupt", {"prompt_id": "x"}).status_code == 200
    assert there.dispatcher.interrupted == [None, None, "x"]
    for body in (b"{", {"prompt_id": 5}, []):
        assert there.post("/interrupt", body).status_code == 400
    assert len(there.dispatcher.interrupted) == 3  # nothing is stopped by accident


def test_free(there):
    there.post("/free", {"unload_models": True, "free_memory": False})
    there.post("/free", {"free_memory": True})
    assert there.dispatcher.freed == [(True, False), (False, True)]


# what the editor's own schema of the jobs list asks for
JOB: dict[str, Any] = {"id": str, "status": str, "create_time": int, "priority": float}
ERROR = {"node_id": str, "node_type": str, "exception_message": str, "exception_type": str, "traceback": list}


def test_jobs_of_every_state(there):
    workflow = {"extra_pnginfo": {"workflow": {"id": "the-graph"}}}
    done = there.submit(GOOD, extra_data=workflow)
    there.dispatcher.step()
    failed = there.submit(FAILING)
    there.dispatcher.step()
    running = there.submit(GOOD)
    there.dispatcher.begin()
    waiting, gone = there.submit(GOOD), there.submit(GOOD)
    there.post("/queue", {"delete": [gone]})
    found = there.get("/api/jobs?status=completed,failed,cancelled,pending,in_progress&limit=64")
    assert found["pagination"] == {"offset": 0, "limit": 64, "total": 5, "has_more": False}
    states = {job["id"]: job["status"] for job in found["jobs"]}
    assert states == {done: "completed", failed: "failed", running: "in_progress", waiting: "pending", gone: "cancelled"}
    assert [job["id"] for job in found["jobs"]] == [gone, waiting, running, failed, done]
    for job in found["jobs"]:
        assert all(isinstance(job[name], (kind, int)) for name, kind in JOB.items())
        assert isinstance(job["outputs_count"], int)
        assert isinstance(job["previewable_outputs_count"], int)
        assert ("execution_error" in job) == (job["status"] == "failed")
        assert job["create_time"] > 1e12
    error = next(job["execution_error"] for job in found["jobs"] if job["status"] == "failed")
    assert all(isinstance(error[name], kind) for name, kind in ERROR.items())
    assert (error["node_id"], error["exception_message"]) == ("f", "no luck")
    by_id = {job["id"]: job for job in found["jobs"]}
    assert by_id[done]["workflow_id"] == "the-graph"
    assert by_id[done]["execution_end_time"] >= by_id[done]["execution_start_time"]
    assert by_id[waiting]["execution_start_time"] is None
    assert [job["id"] for job in there.get("/jobs?workflow_id=the-graph")["jobs"]] == [done]
    assert [job["id"] for job in there.get("/jobs?status=pending")["jobs"]] == [waiting]


def test_pages_of_jobs(there):
    ids = [there.submit(GOOD) for _ in range(5)]
    first = there.get("/jobs?limit=2")
    assert ([job["id"] for job in first["jobs"]], first["pagination"]["has_more"]) == (ids[:2:-1], True)
    last = there.get("/jobs?limit=2&offset=4&sort_order=asc")
    assert ([job["id"] for job in last["jobs"]], last["pagination"]["has_more"]) == (ids[4:], False)
    assert there.get("/jobs?sort_by=execution_duration")["pagination"]["total"] == 5
    assert there.get("/jobs?offset=100")["jobs"] == []


@pytest.mark.parametrize(
    "query",
    ["status=lost", "limit=0", "limit=x", "limit=-1", "limit=99999999999", "offset=-1", "offset=x", "sort_by=name", "sort_order=up"],
)
def test_wrong_questions_about_jobs_are_refused(there, query):
    answer = there.client.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert query.split("=")[0] in answer.json()["error"]


def test_one_job_with_everything(there):
    workflow = {"id": "w", "nodes": []}
    id = there.submit(GOOD, extra_data={"extra_pnginfo": {"workflow": workflow}})
    waiting = there.get(f"/jobs/{id}")
    assert (waiting["status"], waiting["outputs"], waiting["workflow"]["prompt"]) == ("pending", {}, GOOD)
    there.dispatcher.step()
    found = there.get(f"/jobs/{id}")
    assert found["outputs"] == {"s": {"text": ["3"]}}
    assert found["workflow"]["extra_data"]["extra_pnginfo"]["workflow"] == workflow
    assert found["execution_status"]["completed"]
    assert (found["outputs_count"], found["previewable_outputs_count"], found["preview_output"]) == (1, 0, None)
    answer = there.client.get("/jobs/unknown")
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_a_file_that_was_kept_is_the_preview_of_a_job(there):
    there.journal.submit(_new("r"))
    there.journal.start("r", "cpu")
    temp = {"filename": "t.png", "subfolder": "", "type": "temp"}
    kept = {"filename": "k.png", "subfolder": "sub", "type": "output"}
    outputs = {"1": {"images": [temp], "animated": [False]}, "2": {"images": [kept], "text": ["x"]}, "3": {"latents": [kept]}}
    there.journal.finish("r", "success", outputs, {}, [])
    (job,) = there.get("/jobs")["jobs"]
    assert job["preview_output"] == {**kept, "nodeId": "2", "mediaType": "images"}
    assert (job["outputs_count"], job["previewable_outputs_count"]) == (4, 2)


def _new(id: str) -> Any:
    from server.runs import NewRun

    return NewRun(id, GOOD, ("s",))


def test_jobs_are_cancelled_once(there):
    first, second, third = (there.submit(GOOD) for _ in range(3))
    there.dispatcher.begin()
    assert there.post(f"/jobs/{second}/cancel").json() == {"cancelled": True}
    assert there.post(f"/jobs/{second}/cancel").json() == {"cancelled": False}
    assert there.post("/jobs/unknown/cancel").json() == {"cancelled": False}
    assert there.post(f"/jobs/{first}/cancel").json() == {"cancelled": True}
    assert there.dispatcher.interrupted[-1] == first
    assert there.post("/jobs/cancel", {"job_ids": [third, "unknown"]}).json() == {"cancelled": True}
    assert there.post("/jobs/cancel", {"job_ids": []}).json() == {"cancelled": False}
    for body in (b"", b"{", {}, {"job_ids": "x"}, {"job_ids": [5]}):
        assert there.post("/jobs/cancel", body).status_code == 400
    assert there.client.get(f"/jobs/{first}/assets").status_code == 404
