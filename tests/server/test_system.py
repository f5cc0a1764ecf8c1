"""How the server tells of itself, over HTTP and on the command line."""

import json
import re
import subprocess
import sys
import time

import pytest
from running import running
from watcher import single, writing
from websockets.sync.client import connect

from server.translate import files_in


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as there:
        yield there


def metric(server, line):
    text = server.ask("GET", "/metrics")[1].decode()
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def run(server, document):
    status, answer = server.ask("POST", "/prompt", {"prompt": document})
    assert status == 200, answer
    return answer["prompt_id"]


def test_system_stats_has_all_that_the_editor_reads(server):
    for prefix in ("", "/api"):
        status, stats = server.ask("GET", prefix + "/system_stats")
        assert status == 200
        system = stats["system"]
        assert isinstance(system["argv"], list)
        assert {"os", "ram_total", "ram_free", "comfyui_version", "python_version", "pytorch_version", "embedded_python"} <= system.keys()
        assert 0 < system["ram_free"] <= system["ram_total"]
        (device,) = stats["devices"]
        assert device["name"]
        assert (device["type"], device["index"]) == ("cpu", 0)
        assert {"vram_total", "vram_free", "torch_vram_total", "torch_vram_free"} <= device.keys()


def test_the_memory_report_names_processes_and_holders(server):
    server.end_of(run(server, writing("memory")))
    report = server.ask("GET", "/memory")[1]
    (worker,) = report["workers"]
    assert report["server"]["resident_bytes"] > 1 << 20
    assert worker["resident_bytes"] > 1 << 20
    assert worker["pid"] != report["server"]["pid"]
    assert worker["state"] == "idle"
    assert all({"owner", "place", "bytes"} <= holder.keys() for holder in worker["residents"])


def test_metrics_follow_runs_caches_and_requests(server):
    before = {
        line: metric(server, line)
        for line in (
            'latentgraph_runs_total{status="success"}',
            'latentgraph_cache_total{result="hit"}',
            'latentgraph_node_seconds_count{type="Write"}',
            'latentgraph_http_seconds_count{code="404",method="GET",route="other"}',
        )
    }
    document = writing(f"metrics {time.time()}")
    for _ in range(2):
        server.end_of(run(server, document))
    server.ask("GET", "/made/up")
    after = {line: metric(server, line) for line in before}
    assert [after[line] - before[line] for line in before][:1] == [2]
    assert [after[line] - before[line] for line in before][2] == 1, "the second run is cached"
    assert after['latentgraph_cache_total{result="hit"}'] > before['latentgraph_cache_total{result="hit"}']
    assert after['latentgraph_http_seconds_count{code="404",method="GET",route="other"}'] == before[[*before][3]] + 1
    assert metric(server, "latentgraph_queue_pending") == 0
    assert metric(server, 'latentgraph_worker_up{device="cpu",worker="cpu"}') == 1
    assert "/made/up" not in server.ask("GET", "/metrics")[1].decode(), "labels are not what clients make up"


def test_health_counts_what_waits(server):
    first, second = (run(server, single("Wait", seconds=5.0, steps=100)) for _ in range(2))
    until = time.monotonic() + 10
    while (health := server.ask("GET", "/health")[1])["running"] != 1:
        assert time.monotonic() < until, health
    assert health == {"status": "ok", "workers": ["running"], "pending": 1, "running": 1}
    assert metric(server, "latentgraph_queue_pending") == 1
    for id in (second, first):
        assert server.ask("POST", f"/jobs/{id}/cancel")[1] == {"cancelled": True}
    server.end_of(first)


def test_log_lines_reach_the_console_tab(server):
    with connect(server.url.replace("http", "ws") + "/ws?clientId=console") as socket:
        assert server.ask("PATCH", "/internal/logs/subscribe", {"enabled": True, "clientId": "console"})[0] == 200
        server.ask("POST", "/free", {"free_memory": True})
        run(server, single("Die", how="kill"))  # a worker's death is logged
        until = time.monotonic() + 20
        while time.monotonic() < until:
            message = json.loads(socket.recv(timeout=20))
            if message["type"] == "logs":
                break
        assert message["type"] == "logs"
        assert {"t", "m"} == message["data"]["entries"][0].keys()
        assert server.ask("PATCH", "/internal/logs/subscribe", {"enabled": False, "clientId": "console"})[0] == 200
    entries = server.ask("GET", "/internal/logs/raw")[1]["entries"]
    assert entries
    assert entries[-1]["m"].strip() in server.ask("GET", "/internal/logs")[1]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"enabled": 1, "clientId": "x"}', b'{"enabled": true}'])
def test_a_wrong_subscription_is_refused_in_words(server, body):
    status, answer = server.ask("PATCH", "/internal/logs/subscribe", body)
    assert status == 400
    assert isinstance(answer["error"], str)


def command(server, *words):
    line = [sys.executable, "-c", "from server.cli import main; main()", *words, "--server", server.url]
    return subprocess.run(line, cwd=server.home, capture_output=True, text=True, timeout=120)


def test_the_command_line_runs_looks_and_cancels(server, tmp_path):
    file = tmp_path / "pixel.json"
    file.write_text(json.dumps(single("Pixel", red=3, filename_prefix="cli")))
    done = command(server, "run", str(file), "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (picture,) = (tmp_path / "out").iterdir()
    assert f"saved {picture}" in done.stderr
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_done"

    file.write_text(json.dumps(single("Pixel", red="much")))
    done = command(server, "run", str(file))
    assert done.returncode == 3
    assert "red" in done.stderr

    file.write_text(json.dumps(single("Die", how="raise")))
    assert command(server, "run", str(file)).returncode == 1

    waiting = run(server, single("Wait", seconds=60.0, steps=1000))
    assert waiting in command(server, "queue").stdout
    assert "1 running" in command(server, "status").stdout
    assert command(server, "cancel", waiting).returncode == 0
    assert command(server, "cancel", waiting + "x").returncode == 1
    assert [*files_in(server.end_of(waiting)["outputs"])] == []
