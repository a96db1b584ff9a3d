"""The studio under load: twenty clients, clients that leave, its memory, its end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

import psutil
import pytest

from tests.studio.conftest import digits  # noqa: F401 - a fixture
from tests.studio.running import Running, running

CLIENTS = 20


@pytest.fixture(scope="module")
def server(digits, tmp_path_factory):  # noqa: F811
    with running(tmp_path_factory.mktemp("load") / "log.txt", digits) as found:
        yield found, str(digits)


def ask(server: Running, task: str, settings: dict, leave: int | None = None) -> list[dict]:
    """The events of a task; the client leaves after so many."""
    events: list[dict] = []
    body = f'--x\r\nContent-Disposition: form-data; name="settings"\r\n\r\n{json.dumps(settings)}'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    # The plain client: a hundredth of the time of those that do more.
    with closing(HTTPConnection(server.address.removeprefix("http://"), timeout=120)) as client:
        client.request("POST", f"/api/{task}", f"{body}\r\n--x--\r\n".encode(), kind)
        response = client.getresponse()
        if response.status != 200:
            return [{"type": "refused", "status": response.status}]
        for line in response:
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
            if leave is not None and len(events) >= leave:
                break
    return events


def outside(process: psutil.Process) -> list:
    """Connections of a process that are not with this machine."""
    return [
        each
        for each in process.net_connections("inet")
        if each.raddr and not each.raddr.ip.startswith("127.")
    ]


def test_twenty_clients_at_once_are_served_or_told_their_place(server):
    running_server, name = server
    settings = [{"model": name, "steps": 3, "n": 2, "seed": seed} for seed in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda each: ask(running_server, "generate", each), settings))
    assert [events[-1]["type"] for events in answers] == ["done"] * CLIENTS
    seeds = [
        {event["settings"]["seed"] for event in events if event["type"] == "picture"}
        for events in answers
    ]
    assert seeds == [{seed} for seed in range(CLIENTS)]
    places = [event["place"] for events in answers for event in events if event["type"] == "place"]
    assert max(places) > 1
    assert outside(psutil.Process(running_server.process.pid)) == []


def test_more_than_the_queue_holds_are_refused_and_the_next_is_served(server):
    running_server, name = server
    asked = {"model": name, "steps": 4, "n": 1}
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: ask(running_server, "generate", asked), range(48)))
    ends = Counter(events[-1]["type"] for events in answers)
    assert set(ends) <= {"done", "refused"}
    assert ends["done"] >= 32
    assert all(e[-1]["status"] == 503 for e in answers if e[-1]["type"] == "refused")
    assert ask(running_server, "open", {"model": name})[-1]["type"] == "done"


def test_a_client_that_leaves_gives_its_turn_back(server):
    running_server, name = server
    begun = threading.Event()

    def stay() -> None:
        ask(running_server, "generate", {"model": name, "steps": 20, "n": 16}, leave=4)
        begun.set()

    for _ in range(4):
        threading.Thread(target=stay, daemon=True).start()
    assert begun.wait(60)
    assert ask(running_server, "open", {"model": name})[-1]["type"] == "done"
    process = psutil.Process(running_server.process.pid)
    end = time.monotonic() + 60
    while time.monotonic() < end:  # until nothing is computed any more
        before = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        if sum(process.cpu_times()[:2]) - before < 0.1:
            return
    pytest.fail("the server goes on computing for clients that have left")


def test_memory_is_flat_over_five_hundred_requests(server):
    """Of which a tenth draw, since to draw takes longest, and a tenth are refused."""
    running_server, name = server
    process = psutil.Process(running_server.process.pid)

    def some(count: int) -> int:
        for k in range(count):
            drawn, refused = k % 10 == 0, k % 10 == 5
            asked = {"model": name, "steps": 1, "n": 1, "seed": -1 if refused else k}
            events = ask(running_server, "generate" if drawn or refused else "open", asked)
            assert events[-1]["type"] == ("refused" if refused else "done")
        return process.memory_info().rss

    settled = some(50)
    assert some(500) - settled < 10_000_000


def test_sigterm_ends_it_in_the_middle_of_a_task(server):
    """The last test: it ends the server of the module."""
    running_server, name = server
    answers: list[list[dict]] = []
    asked = {"model": name, "steps": 20, "n": 16}

    def wait() -> None:
        with suppress(OSError, HTTPException):  # of the server that ends
            for _ in range(50):
                answers.append(ask(running_server, "generate", asked))

    threading.Thread(target=wait, daemon=True).start()
    while not answers:
        time.sleep(0.05)
    process = running_server.process
    before = psutil.Process(process.pid).cpu_times()
    process.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    # Of its own time, since others may have the cores; it waits for at most two seconds.
    assert usage.ru_utime + usage.ru_stime - before.user - before.system < 3
    text = running_server.log.read_text()
    assert "nelbo studio: ended" in text
    assert "Traceback" not in text
