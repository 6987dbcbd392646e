"""The live page without a browser: what is read as peers write it, how it is merged, and what the server answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from peer import journal, settings
from peer.errors import ConfigError
from peer.files import folder_of
from peer.journal import Journal
from peer.settings import Experiment, published_at
from peer.transport import Keys, Transport, new_key_pair, sockets, watched
from peer.watching import command, server, story
from peer.watching.about import about, encoded, places
from peer.watching.published import Published
from peer.watching.server import application, is_own
from peer.watching.story import LOG, METRICS, Cursor, Line, Story
from peer.watching.tail import Tail
from tests.integration.lab import free_addresses
from tests.rundir import metrics, write_elastic, write_run


def line(peer: int, n: int, **changed: Any) -> Line:
    """A round of metrics as a line."""
    return Line(peer, METRICS, json.dumps(metrics(peer, n) | changed).encode())


def event(of: int, kind: str, time_s: float = 0.0, /, **facts: Any) -> Line:
    """An event as a line."""
    return Line(of, LOG, json.dumps({"time_s": time_s, "event": kind, **facts}).encode())


class Copy:
    """What a page keeps of what it is told: columns that are cut at `from`, and go on behind it."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.columns: dict[str, dict[str, list[Any]]] = {}
        self.notes: list[dict[str, Any]] = []

    def read(self, told: Story) -> bool:
        """Take in what is new; whether there was anything."""
        message = told.since(self.cursor)
        for peer, more in (message or {}).get("peers", {}).items():
            mine = self.columns.setdefault(peer, {})
            start = more.pop("from")
            for name, values in more.items():
                mine[name] = [*mine.get(name, [0] * start)[:start], *values]
        if message is not None:
            self.notes = [*self.notes[: message["notes"]["from"]], *message["notes"]["more"]]
        return message is not None


def whole(told: Story) -> Copy:
    """What a page is told that comes now."""
    copy = Copy()
    copy.read(told)
    return copy


# ---- merging ---------------------------------------------------------------------------------


def test_numbers_of_a_round_are_told_and_parts_added_up() -> None:
    told = Story()
    told.take(line(1, n) for n in range(3))
    (columns,) = whole(told).columns.values()
    assert columns["n"] == [0, 1, 2]
    assert columns["residual"] == [2.0, 0.2, 0.02]
    assert columns["bytes_sent"] == [2000, 4000, 6000]
    assert columns["wait_s"] == [0.125, 0.25, 0.375]
    assert columns["dropped.stale"] == [0, 1, 2]


def test_what_is_no_number_is_told_as_none() -> None:
    told = Story()
    told.take([line(0, 0, objective_estimate=float("nan"), residual=float("inf"))])
    (columns,) = whole(told).columns.values()
    assert (columns["objective_estimate"], columns["residual"]) == ([None], [None])


def test_a_cause_that_comes_later_counts_from_0() -> None:
    told = Story()
    told.take([line(0, 0), line(0, 1), line(0, 2, dropped={"key": 3})])
    assert whole(told).columns["0"]["dropped.key"] == [0, 0, 3]


def test_a_peer_that_goes_through_rounds_again_takes_the_first_time_back() -> None:
    told, copy = Story(), Copy()
    told.take(line(0, n, bytes_sent=1) for n in range(5))
    copy.read(told)
    told.take([line(0, 2, bytes_sent=10)])
    copy.read(told)
    assert copy.columns["0"]["n"] == [0, 1, 2]
    assert copy.columns["0"]["bytes_sent"] == [1, 2, 12]


def test_lines_that_are_none_are_counted_and_nothing_else() -> None:
    told = Story()
    bad = [b"{", b"[]", b"\xff", b'{"iteration": "no"}', b"[" * 100_000, b'{"time_s": 1}']
    told.take([*(Line(0, METRICS, text) for text in bad), line(0, 0)])
    assert told.n_unreadable == len(bad)
    assert whole(told).columns["0"]["n"] == [0]


def test_of_a_long_run_every_second_round_is_kept_and_the_last_with_sums_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(story, "MOST", 8)
    told = Story()
    told.take(line(0, n, bytes_sent=1) for n in range(24))
    columns = whole(told).columns["0"]
    assert columns["n"] == [0, 4, 8, 12, 16, 20, 23]
    assert columns["bytes_sent"] == [n + 1 for n in columns["n"]]
    assert len(columns["links"]) == 7


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 4), st.booleans()), min_size=1, max_size=30
    ),
    st.integers(3, 20),
)
def test_whoever_reads_at_any_time_has_in_the_end_what_a_newcomer_is_told(
    steps: Sequence[tuple[int, int, int, bool]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "MOST", most)
        told, early, next_n = Story(), Copy(), [0, 0, 0]
        for peer, n_rounds, back, reads in steps:
            next_n[peer] = max(0, next_n[peer] - back)  # it was killed, and has begun with an older checkpoint
            told.take([event(peer, "start", n=next_n[peer])])
            told.take(line(peer, next_n[peer] + k) for k in range(n_rounds))
            next_n[peer] += n_rounds
            if reads:
                early.read(told)
        early.read(told)
        newcomer = whole(told)
        assert early.columns == {peer: found for peer, found in newcomer.columns.items() if peer in early.columns}
        assert early.notes == newcomer.notes
        for peer, n in enumerate(next_n):
            if n:
                kept = newcomer.columns[str(peer)]["n"]
                assert kept[-1] == n - 1
                assert kept == sorted(set(kept))
                assert len(kept) <= most


def test_nothing_new_is_nothing_told() -> None:
    told, copy = Story(), Copy()
    told.take([line(0, 0)])
    assert copy.read(told)
    assert not copy.read(told)


def test_events_are_told_in_words_with_whom_they_are_about() -> None:
    told = Story()
    told.take(
        [
            event(0, "start", n=0),
            event(0, "model", 1.0, inputs=[2], outputs=1),
            event(0, "waiting", 5.0, n=3, peers=[2, 1, 7]),
            event(0, "lost", 9.0, peer=7, silent_s=4.0),
            event(0, "dropped", 9.5, peer=None, cause="key", problem="unknown"),
            event(0, "end", 10.0, code=3, problem="neighbors stayed late"),
            event(0, "something new", 11.0),
        ]
    )
    said = [(note["text"], list(note["about"])) for note in whole(told).notes]
    assert said == [
        ("starts", []),
        ("has made its network", []),
        ("waits for peers 1, 2, 7", [2, 1, 7]),
        ("gives peer 7 up, silent for 4 s", [7]),
        ("drops what came from strangers (key): unknown", []),
        ("has ended with exit code 3: neighbors stayed late", []),
        ("something new", []),
    ]


def test_a_peer_that_returns_goes_on_in_time() -> None:
    told = Story()
    told.take([event(0, "start"), line(0, 0, time_s=2.0), line(0, 1, time_s=4.0)])
    told.take([event(0, "start", 0.5, n=2), line(0, 2, time_s=1.0)])
    assert whole(told).columns["0"]["t"] == [2, 4, 5]
    assert [note["t"] for note in told.notes] == [0, 4.5]


def test_a_peer_that_returned_goes_on_in_time_when_all_of_it_is_read_at_once(tmp_path: Path) -> None:
    write_run(tmp_path, ended=None)
    peer = Journal(folder_of(tmp_path, 0), behind=4)
    peer.event("end", 2.0, code=130, problem="interrupted")
    peer.event("start", 0.5, n=4)
    peer.round(**metrics(0, 4) | {"time_s": 1.0})
    peer.event("start", 0.25, n=5)  # it was killed before
    peer.event("done", 0.75, n=5)
    peer.event("end", 1.0, code=0)
    peer.close()
    told = Story()
    told.take(Tail(tmp_path).look())
    notes = [(note["kind"], note["t"]) for note in told.notes if note["peer"] == 0]
    first = [("start", 0), ("ready", 0.1), ("end", 2)]
    assert notes == [*first, ("start", 2.5), ("start", 3.25), ("done", 3.75), ("end", 4)]
    assert whole(told).columns["0"]["t"] == [0.2, 0.45, 0.7, 0.95, 3]


def test_rounds_behind_an_older_checkpoint_are_of_the_start_that_went_there() -> None:
    told = Story()
    starts = [event(0, "start", time_s, n=n) for n, time_s in ((0, 0.0), (4, 1.0), (2, 0.5))]
    told.take([*starts, *(line(0, n, time_s=n % 2 + 1.0) for n in range(4))])
    assert [note["t"] for note in told.notes] == [0, 3, 3.5]
    assert whole(told).columns["0"]["t"] == [1, 2, 4, 5]


def test_without_rounds_times_count_from_the_first_start_of_all(tmp_path: Path) -> None:
    write_elastic(tmp_path)
    told = Story()
    told.take(Tail(tmp_path).look())
    columns = whole(told).columns
    assert sorted(columns, key=int) == ["0", "1", "2", "8"]
    assert columns["0"]["t"][0] == 3.5
    assert columns["1"]["t"] == [3.5, 3.75, 6.5, 6.75, 13.5, 13.75]
    assert {note["members"] for note in told.notes if note["kind"] == "epoch"} == {(0, 1, 2), (0, 1), (0, 1, 8)}


def test_old_events_go_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "MOST_NOTES", 10)
    told, copy = Story(), Copy()
    for k in range(25):
        told.take([event(0, "disconnected", float(k), peer=1)])
        copy.read(told)
    assert copy.notes == told.notes
    assert copy.notes[-1]["t"] == 24
    assert len(copy.notes) <= 10


# ---- reading ---------------------------------------------------------------------------------


def test_lines_are_read_once_and_whole(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=2)
    tail = Tail(tmp_path)
    first = tail.look()
    assert [line.peer for line in first if line.journal == METRICS] == [0, 0, 1, 1, 2, 2]
    assert tail.look() == []
    path = folder_of(tmp_path, 1) / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"iteration": 2, ')
        file.flush()
        assert tail.look() == []
        file.write('"time_s": 1.0}\n')
    (found,) = tail.look()
    assert found == Line(1, METRICS, b'{"iteration": 2, "time_s": 1.0}')


def test_several_long_journals_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "MOST", 8)
    write_run(tmp_path, n_rounds=24)
    told = Story()
    told.take(Tail(tmp_path).look())
    columns = whole(told).columns
    assert sorted(columns) == ["0", "1", "2"]
    for peer, found in columns.items():
        assert found["n"] == [0, 4, 8, 12, 16, 20, 23]
        assert found["bytes_sent"] == [1000 * (1 + int(peer)) * (n + 1) for n in found["n"]]


def test_a_file_that_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    write_run(tmp_path, n_rounds=4)
    tail, told = Tail(tmp_path), Story()
    told.take(tail.look())
    journal.truncate_metrics(folder_of(tmp_path, 0), 2)
    peer = Journal(folder_of(tmp_path, 0), behind=2)
    peer.round(**metrics(0, 2) | {"residual": 7.0})
    peer.close()
    told.take(tail.look())
    columns = whole(told).columns["0"]
    assert (columns["n"], columns["residual"][-1], columns["bytes_sent"]) == ([0, 1, 2], 7, [1000, 2000, 3000])


def test_a_run_that_begins_anew_in_its_directory_forgets_the_old_one(tmp_path: Path) -> None:
    write_run(tmp_path)
    tail, told = Tail(tmp_path), Story()
    told.take(tail.look())
    peer = Journal(folder_of(tmp_path, 0), behind=None)
    peer.event("start", 0.0, n=0)
    peer.close()
    told.take(tail.look())
    assert whole(told).columns["0"]["n"] == []
    assert [note["kind"] for note in told.notes if note["peer"] == 0] == ["start"]


def test_nothing_in_the_run_directory_is_changed(tmp_path: Path) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    write_run(tmp_path)
    before = state()
    Tail(tmp_path).look()
    assert state() == before


def test_what_is_no_run_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"expected a run directory, found no experiment\.toml"):
        command.watch(str(tmp_path), 0, print)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected a run directory, or one in runs/; found none"):
        command.watch(None, 0, print)


def test_the_newest_run_is_taken_where_none_is_named(tmp_path: Path) -> None:
    for k, name in enumerate(("old", "new", "older")):
        write_run(tmp_path / name, ended=None)
        os.utime(tmp_path / name / "experiment.toml", (1000 - 10 * (k != 1), 1000 - 10 * (k != 1)))
    write_run(tmp_path / "simulated", ended=None)
    (tmp_path / "simulated" / "rounds.csv").touch()
    assert command.newest(tmp_path) == tmp_path / "new"


def test_a_run_without_peers_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, ended=None)
    (tmp_path / "rounds.csv").touch()
    with pytest.raises(ConfigError, match=r"^peer watch: expected a run of peers, found one of `peer simulate` in /"):
        command.watch(str(tmp_path), 0, print)


# ---- what does not change --------------------------------------------------------------------


@pytest.mark.parametrize(
    "topology",
    [
        {"graph": "ring"},
        {"graph": "erdos-renyi", "probability": 0.9, "schedule": "random-links"},
        {"schedule": "one-peer-exponential"},
        {"schedule": "file", "path": "/nowhere/schedule.jsonl"},
    ],
)
@pytest.mark.parametrize("mode", ["rounds", "async"])
def test_a_page_is_told_where_agents_are_and_which_links_there_may_be(
    tmp_path: Path, topology: dict[str, Any], mode: str
) -> None:
    experiment = write_run(tmp_path, ended=None, topology=topology, run={"mode": mode})
    told = json.loads(encoded(about(experiment, "here")))
    assert set(told["places"]) == {"0", "1", "2"}
    assert all(abs(x) <= 1 and abs(y) <= 1 for x, y in told["places"].values())
    links = {tuple(link) for link in told["links"]}
    in_turn = mode == "rounds" and topology.get("schedule") == "one-peer-exponential"
    assert links == (set() if "path" in topology else {(0, 1), (0, 2)} | ({(1, 2)} if not in_turn else set()))
    assert (told["name"], told["mode"], told["peers"]) == ("tiny", mode, 3)


def test_many_agents_are_on_a_circle() -> None:
    found = places(200, [(i, i + 1) for i in range(199)])
    assert all(abs(x * x + y * y - 1) < 1e-3 for x, y in found.values())


# ---- the server ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "localhost:1", "[::1]", "[::1]:65535"])
def test_the_loopback_is_the_own_host(host: str) -> None:
    assert is_own(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "127.0.0.1:", "10.0.0.1", "[::2]:80"],
)
def test_no_other_is(host: str) -> None:
    assert not is_own(host)


def served(tail: Any, asked: Callable[[ClientSession, str], Awaitable[None]]) -> None:
    """Ask the server of a source something."""

    async def run() -> None:
        async with TestServer(application(tail, "here")) as running, ClientSession() as client:
            await asked(client, str(running.make_url("")).rstrip("/"))

    asyncio.run(run())


def test_every_file_of_the_page_is_served_with_a_policy_that_lets_nothing_else_in(tmp_path: Path) -> None:
    write_run(tmp_path)

    async def asked(client: ClientSession, address: str) -> None:
        for path, (name, kind) in server.FILES.items():
            async with client.get(address + path) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert await answer.text() == (server.PAGE / name).read_text()
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        served_files = {name for name, _ in server.FILES.values()}
        assert served_files == {path.name for path in server.PAGE.iterdir()}
        for path in ("/experiment.toml", "/../server.py", "/%2e%2e/server.py", "/peers"):
            async with client.get(address + path) as answer:
                assert answer.status == 404
        async with client.post(address + "/") as answer:
            assert answer.status == 405

    served(Tail(tmp_path), asked)


def test_other_hosts_and_other_pages_get_nothing(tmp_path: Path) -> None:
    write_run(tmp_path)

    async def asked(client: ClientSession, address: str) -> None:
        for path in ("/", "/events", "/nowhere"):
            async with client.get(address + path, headers={"Host": "evil.example"}) as answer:
                assert answer.status == 421
            async with client.get(address + path, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
                assert answer.status == 403

    served(Tail(tmp_path), asked)


async def heard(client: ClientSession, address: str, n: int) -> list[Any]:
    """The first n messages that a page is told."""
    found: list[Any] = []
    async with asyncio.timeout(30), client.get(address + "/events") as answer:
        assert answer.content_type == "text/event-stream"
        async for text in answer.content:
            if text.startswith(b"data: "):
                found.append(json.loads(text.removeprefix(b"data: ")))
            if len(found) == n:
                break
    return found


def test_a_page_is_told_what_is_there_and_then_what_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    write_run(tmp_path, ended=None)

    async def asked(client: ClientSession, address: str) -> None:
        experiment, first = await heard(client, address, 2)
        assert experiment["name"] == "tiny"
        assert first["peers"]["0"]["n"] == [0, 1, 2, 3]
        both = [asyncio.ensure_future(heard(client, address, 3)) for _ in range(2)]
        peer = Journal(folder_of(tmp_path, 2), behind=4)
        n = 4
        while not all(one.done() for one in both):
            peer.round(**metrics(2, n))
            n += 1
            await asyncio.sleep(0.01)
        peer.close()
        for one in both:
            *_, more = one.result()
            assert list(more["peers"]) == ["2"]
            assert more["peers"]["2"]["n"][0] >= 4

    served(Tail(tmp_path), asked)


class Counting:
    """A source that counts who looks."""

    lasts = True

    def __init__(self, experiment: Experiment) -> None:
        self.looks = 0
        self._experiment = experiment

    def experiment(self) -> Experiment:
        return self._experiment

    def look(self) -> list[Line]:
        self.looks += 1
        return [line(0, self.looks - 1)]

    def close(self) -> None:
        pass


def test_nothing_is_read_as_long_as_nobody_wants_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.0)
    source = Counting(write_run(tmp_path))
    app = application(source, "here")

    async def run() -> None:
        async with TestServer(app) as running, ClientSession() as client, asyncio.timeout(30):
            address = str(running.make_url("")).rstrip("/")
            assert not app[server.READER].reads
            await heard(client, address, 4)
            assert source.looks >= 3
            while app[server.READER].reads:  # until it is noticed that nobody listens any more
                await asyncio.sleep(0.001)
            before = source.looks
            async with client.get(address + "/") as answer:
                assert answer.status == 200
            assert source.looks == before

    asyncio.run(run())


class Failing(Counting):
    """A source whose second look fails."""

    def look(self) -> list[Line]:
        if self.looks:
            raise IndexError("two\nlines")
        return super().look()


def test_a_look_that_fails_is_told_here_and_on_every_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    failed = "here cannot be read: IndexError: two lines"

    async def asked(client: ClientSession, address: str) -> None:
        for _ in range(2):  # the second is told what was read before
            async with asyncio.timeout(30), client.get(address + "/events") as answer:
                text = await answer.text()
            about_run, more, end = text.split("\n\n")[:-1]
            assert about_run.startswith("event: about\n")
            assert json.loads(more.removeprefix("data: "))["peers"]["0"]["n"] == [0]
            assert end == f"event: failed\ndata: {json.dumps(failed)}"

    served(Failing(write_run(tmp_path)), asked)
    assert capsys.readouterr().err == f"peer: {failed}\n"


# ---- what peers publish ----------------------------------------------------------------------


def test_peers_publish_at_the_port_plus_their_number() -> None:
    assert published_at("tcp://127.0.0.1:5600", 3) == "tcp://127.0.0.1:5603"
    assert published_at("tcp://peer-{id}:5600", 3) == "tcp://peer-3:5603"
    assert published_at("tcp://[::1]:5600", 0) == "tcp://[::1]:5600"


@pytest.mark.parametrize("found", ["5600", "tcp://127.0.0.1", "ipc://here", "tcp://a:65534", "tcp://127.0.0.1:0"])
def test_where_peers_publish_is_checked(tmp_path: Path, found: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.publish: expected"):
        write_run(tmp_path, run={"publish": found})


def told_by(address: str, source: Published, keys: Keys | None, frames: Sequence[Sequence[bytes]]) -> list[Line]:
    """What a source takes in of messages that a peer repeats until the last of them has come."""

    async def run() -> list[Line]:
        nobody = Transport(0, keys, 1_000, *(lambda _: None,) * 4)
        nobody.publish(address, keys is not None)
        found: list[Line] = []
        try:
            async with asyncio.timeout(30):
                while not found or found[-1].text != frames[-1][-1]:
                    for each in frames:
                        nobody.tell(each)
                    await asyncio.sleep(0.01)
                    found += source.look()
        finally:
            nobody.abandon()
        return found

    try:
        return asyncio.run(run())
    finally:
        source.close()


def lines_told(experiment: Experiment) -> list[list[bytes]]:
    """Messages of peer 0; what is none of a peer is between them."""
    text = settings.to_toml(experiment).encode()
    junk = [[b"metrics"], [b"metrics", b"-1", b"{}"], [b"other", b"0", b"{}"], [b"experiment", b"0", b"{"], [b""] * 3]
    return [[b"experiment", b"0", text], *junk, [b"metrics", b"0", b'{"iteration": 0}']]


def test_who_listens_on_the_loopback_is_told(tmp_path: Path) -> None:
    experiment = write_run(tmp_path)
    (address,) = free_addresses(1)
    source = Published(address, None)
    assert (source.experiment(), source.look()) == (None, [])
    found = told_by(address, source, None, lines_told(experiment))
    assert set(found) == {Line(0, METRICS, b'{"iteration": 0}')}
    assert source.experiment() == experiment


def test_beyond_the_loopback_nobody_is_told_without_keys() -> None:
    async def publish() -> None:
        nobody = Transport(0, None, 1_000, *(lambda _: None,) * 4)
        try:
            nobody.publish("tcp://0.0.0.0:0", False)
        finally:
            nobody.abandon()

    with pytest.raises(ConfigError, match=r"^run\.publish: expected an address of the loopback"):
        asyncio.run(publish())
    with pytest.raises(ConfigError, match=r"^--keys: expected keys, for tcp://10\.0\.0\.1:5600"):
        Published("tcp://10.0.0.1:5600", None)


def test_with_keys_those_are_told_that_have_one_on_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (sockets, watched):
        monkeypatch.setattr(module, "is_loopback", lambda address: False)  # there is no other network here
    experiment = write_run(tmp_path)
    pairs = [new_key_pair() for _ in range(4)]
    public = {peer: pair[0] for peer, pair in enumerate(pairs[:3])}
    mine, friend, stranger = (Keys(pairs[k][1], pairs[k][0], public) for k in (0, 1, 3))
    (address,) = free_addresses(1)
    found = told_by(address, Published(address, friend), mine, lines_told(experiment))
    assert set(found) == {Line(0, METRICS, b'{"iteration": 0}')}
    (address,) = free_addresses(1)
    one, other = Published(address, friend), Published(address, stranger)
    told_by(address, one, mine, lines_told(experiment))
    assert other.look() == []
    other.close()


def test_a_journal_tells_each_line_that_it_writes(tmp_path: Path) -> None:
    told: list[tuple[str, bytes]] = []
    peer = Journal(tmp_path, None, lambda name, text: told.append((name, text)))
    peer.event("start", 0.0)
    peer.round(**metrics(0, 0))
    peer.close()
    for name in ("log", "metrics"):
        assert [text for kind, text in told if kind == name] == (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
