"""`latentgraph serve` as a person starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from server.cli import with_listen
from server.serve import address, listen
from server.settings import ServerSettings

WITHOUT_TORCH = (
    "import sys, atexit\n"
    "heavy = {'torch', 'diffusers', 'transformers', 'nodes', 'diffusion', 'toybox', 'graph_engine.engine'}\n"
    "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
    "from server.cli import main; main()"
)


def serve(home, *words, **environment):
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", "--home", str(home), "--port", "0", *words]
    return subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def announced(process):
    said = []
    for line in process.stderr:
        if line.startswith("latentgraph is at "):
            return line.split()[3]
        said.append(line)
    raise AssertionError(f"it ended with {process.wait()}: {''.join(said)}")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_answers_at_once_and_stops_cleanly(tmp_path, stop):
    process = serve(tmp_path, "--base", "studio", "--log-json")
    try:
        url = announced(process)
        assert url.endswith("/studio/")
        with urllib.request.urlopen(url + "api/system_stats", timeout=20) as answer:
            assert json.load(answer)["system"]["argv"]
        process.send_signal(stop)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    *lines, heavy = rest.splitlines()
    assert heavy == "HEAVY []"
    assert process.returncode == 0, rest
    assert all(json.loads(line)["level"] != "error" for line in lines)
    assert (tmp_path / "latentgraph.sqlite").is_file()


def test_other_machines_need_a_token(tmp_path):
    process = serve(tmp_path, "--listen")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "token" in said
    assert "Traceback" not in said


def test_a_token_from_the_environment_is_asked_for(tmp_path):
    process = serve(tmp_path, "--listen", "0.0.0.0", LATENTGRAPH_TOKEN="open sesame")
    url = announced(process)
    port = url.split(":")[2].rstrip("/")
    try:
        local = f"http://127.0.0.1:{port}/health"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(local, timeout=20)
        refused.value.close()
        assert refused.value.code == 401
        with urllib.request.urlopen(urllib.request.Request(local, headers={"Authorization": "Bearer open sesame"}), timeout=20) as answer:
            assert json.load(answer)["status"] == "ok"
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=60)
    assert "open sesame" not in rest


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path):
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="--port 0"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(OSError, match="no address 'no such host'"):
        listen("no such host", 1)


def test_the_address_is_one_to_type_into_a_browser():
    with listen("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
        assert address(ServerSettings(base="a"), place) == f"http://127.0.0.1:{port}/a/"
        assert address(ServerSettings(host="::1"), place) == f"http://[::1]:{port}/"
        assert address(ServerSettings(host="0.0.0.0", token="x"), place) == f"http://{socket.gethostname()}:{port}/"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["serve", "--listen"], ["serve", "--listen", "0.0.0.0"]),
        (["serve", "--listen", "--port", "1"], ["serve", "--listen", "0.0.0.0", "--port", "1"]),
        (["serve", "--listen", "10.0.0.1"], ["serve", "--listen", "10.0.0.1"]),
        (["run", "x.json"], ["run", "x.json"]),
    ],
)
def test_listen_alone_means_every_address(given, meant):
    assert with_listen(given) == meant
