"""`civis-futures check-platform`, on local platforms that behave each way."""

from __future__ import annotations

import json
import math
import re
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from civis_futures import ContainerPoolExecutor
from civis_futures._api.client import PlatformClient
from civis_futures._checking import probe
from civis_futures._checking.assumptions import ASSUMPTIONS, OPEN, findings, traits_of
from civis_futures._checking.visit import Ear, visit
from civis_futures._kept.traits import UNKNOWN, Traits, remember_traits, remembered_traits
from civis_futures._types import JobKind, RunState
from civis_futures.cli import main
from civis_futures.testing import Fault, LocalPlatform

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
TEXTS = [each.text for each in ASSUMPTIONS]
STARTS_COUNT, HEADERS = TEXTS[6], TEXTS[7]


@pytest.fixture
def check(monkeypatch, capsys):
    """check(platform, *arguments): its exit code, and what it printed."""

    def run(platform, *arguments):
        monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
        monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
        monkeypatch.delenv("COLUMNS", raising=False)
        code = main(["check-platform", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def by_text(out):
    reported = json.loads(out)
    return {each["assumption"]: each for each in reported["assumptions"]}, reported


def left_on(platform):
    """Scripts that are not archived, and runs that are not over."""
    with closing(PlatformClient(platform.url, platform.api_key)) as client:
        rows = [
            row
            for hidden in (True, False)
            for row in client.list_jobs(JobKind.CONTAINER, hidden=hidden)[0]
        ]
    return [row.name for row in rows], platform.stats().active


@pytest.fixture(scope="module")
def seen():
    """What is seen of a platform that behaves as is assumed."""
    ear = Ear()
    with (
        LocalPlatform(rate_limit="civis") as platform,
        closing(PlatformClient(platform.url, platform.api_key, heard=ear)) as client,
    ):
        return visit(client, ear, ("image", "tag"), 60.0)


def test_the_assumptions_are_those_of_the_design():
    section = DESIGN.read_text("utf-8").partition("## What is assumed of Civis Platform")[2]
    rows = re.findall(r"^\| (.*?) \| .*? \| .*? \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert rows[1:] == TEXTS  # without the head


def test_a_platform_without_limits(check):
    with LocalPlatform() as platform:
        code, out, _ = check(platform, "--json")
        stats = platform.stats()
        found, reported = by_text(out)
        assert code == 0, out
        unseen = [text for text, each in found.items() if each["holds"] is None]
        # No limit, nothing lost, no browser; and what is left open.
        assert set(unseen) == {
            *(STARTS_COUNT, HEADERS, TEXTS[9], TEXTS[16]), *(each.text for each in OPEN)
        }  # fmt: skip
        assert (reported["run_starts"], stats.runs_started) == (2, 2)
        by_us = sum(count for (_, _, who), count in stats.requests.items() if who == "client")
        assert by_us == reported["requests"]
        assert sum(stats.requests.values()) <= 100
        assert left_on(platform) == ([], {})
        where = reported["remembered"].pop("file")
        assert Traits(**reported["remembered"]).renaming
        assert stat.S_IMODE(Path(where).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(where).parent.stat().st_mode) == 0o700


def test_the_other_way_round(check, monkeypatch, capsys):
    """What `LocalPlatform` can be told, and that it is taken into account."""
    other = {"hidden_lists": "also", "updated_at_follows_runs": True, "whole_seconds": True}
    with LocalPlatform(rate_limit="civis", start_delay=0.3, **other) as platform:
        before = _lists_of_ps(platform, monkeypatch)
        code, out, _ = check(platform)
        assert code == 1
        (line,) = [line for line in out.splitlines() if line.startswith("NO")]
        assert STARTS_COUNT in line
        assert "1 and 1 of 1,000" in line
        for said in ("they also have the others", "it does", "in whole seconds", "100 at starts"):
            assert said in out
        assert _lists_of_ps(platform, monkeypatch) == before // 2
        with closing(PlatformClient(platform.url, platform.api_key)) as client:
            assert client.traits.hidden_lists_have_all
            assert not client.traits.starts_count


def _lists_of_ps(platform, monkeypatch):
    monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
    monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
    before = _count_of_lists(platform)
    assert main(["ps"]) == 0
    return _count_of_lists(platform) - before


def _count_of_lists(platform):
    stats = platform.stats()
    return stats.count(path="/scripts") + stats.count(path="/scripts/custom")


def test_a_platform_that_refuses_much(check):
    """It is seen, and remembered; and then a pool does without it from the start."""
    refusals = [
        Fault.answer(403, "PATCH /scripts/containers/{id}", origin="worker"),
        Fault.answer(400, "POST /scripts/containers", times=1),
        Fault.answer(404, "GET */outputs", origin="client", times=1),
        Fault.stale(1.2, "GET /scripts", times=4),
        Fault.stale(1000.0, "GET /jobs"),
    ]
    with LocalPlatform(faults=refusals) as platform:
        code, out, _ = check(platform, "--json")
        found, reported = by_text(out)
        assert code == 1
        differing = {text for text, each in found.items() if each["holds"] is False}
        assert {TEXTS[2], TEXTS[5], TEXTS[11], TEXTS[12]} <= differing
        assert "403" in found[TEXTS[5]]["seen"]
        assert reported["remembered"]["text_limit"] == 30_000
        assert reported["remembered"]["list_lag"] > 1.0
        assert not reported["remembered"]["renaming"]
        assert left_on(platform) == ([], {})
        platform.faults.clear()
        platform.reset()
        with ContainerPoolExecutor(2, platform=platform) as executor:
            assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        renamings = platform.stats().count("PATCH", "/scripts/containers/{id}", "worker")
        assert renamings == 0


def test_runs_that_do_not_end_are_cancelled(check):
    with LocalPlatform(faults=[Fault.stay_queued()]) as platform:
        code, out, err = check(platform, "--timeout", "0.3")
        assert (code, out) == (69, "")
        assert "queued after 0.3 seconds; what was started is cancelled" in err
        assert left_on(platform) == ([], {})


@pytest.mark.parametrize("given", ["0", "nan", "-1"])
def test_a_timeout_that_is_none(check, platform, given):
    code, _, err = check(platform, f"--timeout={given}")
    assert code == 2
    assert "--timeout must be" in err


# --- one by one: what the local platform cannot be told, as it would be seen ---------------------


def reported(seen, **changes):
    return replace(seen, reported={**seen.reported, **changes})


def without(seen, what, text):
    """The same, without the lines of a log that have this text."""
    lines = [line for line in seen.logs[what] if text not in line.message]
    return replace(seen, logs={**seen.logs, what: lines})


def leveled(seen, level):
    lines = [replace(line, level=level) for line in seen.logs["probe"]]
    return replace(seen, logs={**seen.logs, "probe": lines})


def ended(seen, first, second):
    rows = [(job, replace(run, finished=end)) for (job, run), end in
            zip(seen.rows, (first, second), strict=True)]  # fmt: skip
    return replace(seen, rows=tuple(rows))


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (0, lambda seen: reported(seen, file=None), "there was no"),
        (0, lambda seen: reported(seen, file="HTTPError: 403"), "403"),
        (1, lambda seen: reported(seen, user="URLError: no way"), "no way"),
        (2, lambda seen: reported(seen, text=4096), "4,096 arrived"),
        (3, lambda seen: replace(seen, hidden=(False, False)), "were not in the list"),
        (3, lambda seen: replace(seen, rows=seen.rows[:1]), "1 of 2 runs"),
        (3, lambda seen: ended(seen, 1.0, 9.0), "another order"),
        (4, lambda seen: without(seen, "glutton", "ran out"), "without memory"),
        (4, lambda seen: without(seen, "probe", "exiting"), "exit code 7"),
        (5, lambda seen: reported(seen, renamed="HTTPError: 403"), "403"),
        (7, lambda seen: replace(seen, start_limit=1000), "1,000 at starts"),
        (8, lambda seen: replace(seen, ids=(3, 1, 2)), "(3, 1, 2)"),
        (8, lambda seen: replace(seen, names_are_new=False), "old name"),
        (10, lambda seen: replace(seen, lag=4.0), "4.0 s"),
        (10, lambda seen: replace(seen, lag=math.inf), "did not show"),
        (11, lambda seen: replace(seen, searched=False), "not found"),
        (12, lambda seen: replace(seen, archived_outputs=()), "not there"),
        (13, lambda seen: replace(seen, archived_listed=False), "not there"),
        (14, lambda seen: replace(seen, settled=False), "over, too"),
        (14, lambda seen: replace(seen, grows=False), "not said"),
        (15, lambda seen: leveled(seen, "info"), "stderr: info"),
    ],
)
def test_what_differs_is_said(seen, number, change, said):
    before, after = findings(seen)[number], findings(change(seen))[number]
    assert before.holds
    assert after.holds is False
    assert said in after.seen
    assert after.follows == ASSUMPTIONS[number].otherwise


def test_starts_may_count_too(seen):
    """Only what both starts have shown is believed: others spend from the same limit."""
    for spent, holds in [((1, 1), False), ((2, 2), True), ((2, 3), True), ((1, 2), None)]:
        changed = replace(seen, spent=spent)
        assert findings(changed)[6].holds is holds
        assert traits_of(changed).starts_count is (holds is not False)


def test_a_probe_that_told_nothing(seen):
    quiet = replace(seen, reported={})
    found = findings(quiet)
    assert [found[n].holds for n in (0, 1, 2, 5)] == [None] * 4
    assert "see its log" in found[0].seen
    traits = traits_of(quiet)
    assert (traits.renaming, traits.text_limit) == (True, UNKNOWN.text_limit)


def test_a_long_text_that_was_cut_is_not_sent_again(seen):
    assert traits_of(reported(seen, text=4096)).text_limit == 0
    assert traits_of(replace(seen, lag=math.inf)).list_lag == 60.0


def test_the_runs_ended_as_they_should(seen):
    assert {run.state for run in seen.runs.values()} == {RunState.FAILED}
    assert (seen.starts, seen.requests < 60) == (2, True)
    assert probe.OUTPUT in seen.archived_outputs


# --- what is remembered --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"list_lag": "2"}', '{"list_lag": -1}', '{"list_lag": 1e9}',
        '{"text_limit": true}', '{"text_limit": 1.5}', '{"renaming": 0}', '{"text_limit": 200000}',
        "NaN", '{"list_lag": NaN}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_remembered(tmp_path, text):
    url = "https://somewhere/"
    path = remember_traits(url, "key", Traits(list_lag=3.0, renaming=False), tmp_path)
    assert remembered_traits(url, "other", tmp_path) == Traits(list_lag=3.0, renaming=False)
    assert remembered_traits("https://elsewhere/", "key", tmp_path) == UNKNOWN
    path.write_text(text)
    assert remembered_traits(url, "key", tmp_path) == UNKNOWN


def test_a_platform_of_this_machine_is_another_one_with_another_key(tmp_path):
    url = "http://127.0.0.1:4000/"
    remember_traits(url, "key", Traits(renaming=False), tmp_path)
    assert remembered_traits(url, "other", tmp_path) == UNKNOWN
    assert not remembered_traits(url, "key", tmp_path).renaming


def test_what_others_may_write_is_not_believed(tmp_path, caplog):
    url = "https://somewhere/"
    remember_traits(url, "key", Traits(renaming=False), tmp_path)
    tmp_path.chmod(0o777)
    assert remembered_traits(url, "key", tmp_path) == UNKNOWN
    assert "chmod go-w" in caplog.text
    assert remember_traits(url, "key", Traits(), tmp_path) is None


def test_a_folder_that_cannot_be_written(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    assert remember_traits("https://somewhere/", "key", Traits(), place) is None


def test_a_key_that_may_not_start_runs(check):
    refused = Fault.answer(403, "POST /scripts/containers/{id}/runs")
    with LocalPlatform(faults=[refused]) as platform:
        code, out, err = check(platform)
        assert (code, out) == (2, "")
        assert "the key in CIVIS_API_KEY may not do this: POST /scripts/containers/" in err
        assert left_on(platform)[1] == {}
