import asyncio
import json
import logging
import threading

from server.logs import Recent, set_up

log = logging.getLogger("test.logs")


def test_a_line_of_json_carries_what_was_passed_along(capsys):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        set_up("info", as_json=True)
        try:
            raise ValueError("why")
        except ValueError:
            log.warning("run %s\nfailed", "7", exc_info=True, extra={"run": "7"})
        log.debug("not this")
        line, rest = capsys.readouterr().err.split("\n", 1)
        said = json.loads(line)
    finally:
        logging.getLogger().handlers[:], level = before[0], before[1]
        logging.getLogger().setLevel(level)
    assert (said["level"], said["message"], said["run"], said["logger"]) == ("warning", "run 7\nfailed", "7", "test.logs")
    assert "ValueError: why" in said["traceback"]
    assert rest == ""


def test_listeners_hear_lines_of_any_thread_and_the_last_ones_are_kept():
    async def listen():
        heard = []
        recent = Recent(kept=3)
        recent.start(asyncio.get_running_loop(), lambda client, entry: heard.append((client, entry["m"])))
        try:
            log.warning("nobody listens")
            recent.clients.add("me")
            thread = threading.Thread(target=lambda: [log.warning("line %d", number) for number in range(4)])
            thread.start()
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)
        finally:
            recent.stop()
        log.warning("too late")
        await asyncio.sleep(0)
        return heard, [entry["m"] for entry in recent.entries]

    heard, kept = asyncio.run(listen())
    assert heard == [("me", f"warning: line {number}\n") for number in range(4)]
    assert kept == [f"warning: line {number}\n" for number in (1, 2, 3)]
