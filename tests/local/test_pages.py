"""The pages of a local platform: who may see them, what they are told, and a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from urllib.parse import unquote

import pytest

from civis_futures import ContainerPoolExecutor
from civis_futures.local import LocalPlatform
from civis_futures.local._pages import overview
from civis_futures.local._pages.tickets import TICKET_SECONDS, TicketError, Visitors, page_link
from civis_futures.testing import Fault

from .conftest import Api, http_call, until

KEY = "an owner's key"
NOW = 1_790_000_000.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
NASTY = "<script>document.title='run'</script><b>&amp;"


@pytest.fixture(scope="module")
def platform():
    with LocalPlatform(start_delay=0.0) as running:
        yield running


@pytest.fixture
def api(platform):
    return Api(platform.url, platform.api_key)


def ticket_of(link):
    return unquote(link.partition("#ticket=")[2])


def enter(platform, ticket, **headers):
    body = json.dumps({"ticket": ticket})
    return http_call(f"{platform.url}/_local/page/pass", "POST", body, headers)


@pytest.fixture(scope="module")
def ask(platform):
    """Ask as the page does, after it has shown its ticket."""
    given = enter(platform, ticket_of(platform.page))["pass"]

    def ask(path, **headers):
        sent = {"Authorization": f"Bearer {given}", **headers}
        return http_call(f"{platform.url}/_local/page/{path}", headers=sent)

    return ask


@pytest.mark.parametrize("ahead", [-31 * 86400.0, 3600.0])
def test_links_open_the_pages_for_all_clocks(faulty, monkeypatch, ahead):
    """That of who makes them is wrong, and that of the platform; and both are stopped."""
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + ahead)
    with ContainerPoolExecutor(1, platform="local") as executor:
        assert executor.submit(abs, -1).result(60) == 1
        link = re.search(r'href="([^"]*#ticket=[^"]*)"', executor._repr_html_())[1]
        body = json.dumps({"ticket": ticket_of(link)})
        url = link.partition("/#")[0]
        assert http_call(f"{url}/_local/page/pass", "POST", body).status == 200
    faulty.faults.add(Fault.clock(-ahead))
    assert enter(faulty, ticket_of(faulty.page)).status == 200


# --- who may see them ----------------------------------------------------------------------------


def test_a_ticket_is_taken_once():
    visitors, ticket = Visitors(KEY), ticket_of(page_link("http://here", KEY, NOW))
    given = visitors.enter(ticket, NOW)
    assert visitors.knows(given)
    with pytest.raises(TicketError, match="used before"):
        visitors.enter(ticket, NOW + 1)
    assert not visitors.knows("")
    assert not visitors.knows(KEY)


def test_a_ticket_is_remembered_as_long_as_it_would_be_taken():
    visitors, ticket = Visitors(KEY), ticket_of(page_link("http://here", KEY, NOW))
    visitors.enter(ticket, NOW)
    for seconds in (1, TICKET_SECONDS - 1):
        other = ticket_of(page_link("http://here", KEY, NOW + seconds))
        visitors.enter(other, NOW + seconds)
        with pytest.raises(TicketError):
            visitors.enter(ticket, NOW + seconds)
    with pytest.raises(TicketError, match="too old"):
        visitors.enter(ticket, NOW + TICKET_SECONDS)


@pytest.mark.parametrize(
    "ticket",
    ["", "x", "..", "1.2.3", "99999999999999.abc.def", "\udc80.é.\x00", "nan.a.b", "1" * 900],
)
def test_what_is_no_ticket(ticket):
    with pytest.raises(TicketError, match="not one of this platform's"):
        Visitors(KEY).enter(ticket, NOW)


def test_a_ticket_for_ever_is_not_taken():
    # Only who has the key could make one; a clock that is far ahead does.
    link = page_link("http://here", KEY, NOW + 10 * TICKET_SECONDS)
    with pytest.raises(TicketError, match="too old"):
        Visitors(KEY).enter(ticket_of(link), NOW)


def test_a_ticket_of_another_key():
    with pytest.raises(TicketError):
        Visitors(KEY).enter(ticket_of(page_link("http://here", "another", NOW)), NOW)


def test_the_link_says_no_key(platform):
    assert platform.api_key not in unquote(platform.page)
    assert platform.page != platform.page
    assert platform.page.startswith(f"{platform.url}/#ticket=")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"ticket": {}}', b"\xff", b"[" * 5000]
)
def test_bodies_that_have_no_ticket(platform, body):
    reply = http_call(f"{platform.url}/_local/page/pass", "POST", body)
    assert reply.status in (400, 403, 413)
    assert "pass" not in reply.body


def test_a_pass_opens_the_pages_alone(platform, ask, api):
    given = enter(platform, ticket_of(platform.page))["pass"]
    stranger = Api(platform.url, given)
    for path in ("/scripts", "/users/me", "/_local/stats", "/_local/requests"):
        assert stranger("GET", path).status == 401
    assert stranger("POST", "/scripts/containers", {}).status == 401
    assert stranger("GET", "/_local/page/overview").status == 200
    # Nor does the key open the pages: nobody may be led to put it into a browser.
    assert api("GET", "/_local/page/overview").status == 401
    assert http_call(f"{platform.url}/_local/page/overview").status == 401


def test_the_pages_change_nothing(ask, platform):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("overview", "jobs/1", "runs/1", "page.js", ""):
            reply = http_call(f"{platform.url}/_local/page/{path}", method, b"{}")
            assert reply.status == 405, (method, path)


def test_other_pages_get_nothing(platform, ask):
    assert ask("overview").status == 200
    assert ask("overview", Origin=platform.url).status == 200
    assert ask("overview", Origin="http://elsewhere.example").status == 403
    assert ask("overview", Origin="null").status == 403
    for site in ("cross-site", "same-site"):  # another port of this machine is the same site
        assert ask("overview", **{"Sec-Fetch-Site": site}).status == 403
    assert enter(platform, ticket_of(platform.page), Origin="http://other:1").status == 403
    assert ask("overview", Host="rebound.example").status == 403


def test_a_page_for_people_and_an_answer_for_clients(platform):
    for path in ("/", "/scripts/containers/1001", "/scripts/containers/1001/runs/2", "/jobs/3"):
        reply = http_call(platform.url + path, headers={"Accept": "text/html,*/*;q=0.8"})
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/html")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert b"1001" not in reply.data  # there is no data in it
        for accept in ("*/*", "application/json"):
            assert http_call(platform.url + path, headers={"Accept": accept}).status in (401, 404)
    given = {"Accept": "text/html", "Authorization": f"Bearer {platform.api_key}"}
    assert "login" not in http_call(f"{platform.url}/users/me", headers=given).body
    assert (
        http_call(f"{platform.url}/scripts", headers=given)
        .headers["content-type"]
        .startswith("application/json")
    )


def test_nothing_comes_from_elsewhere(platform):
    for name in ("page.js", "page.css"):
        reply = http_call(f"{platform.url}/_local/page/{name}")
        assert reply.status == 200
        found = re.findall(r"(?:https?:)?//[a-z][^\s\"')]*", reply.data.decode())
        assert set(found) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert b"innerHTML" not in http_call(f"{platform.url}/_local/page/page.js").data
    for path in ("../serving.py", "..%2fserving.py", "page.html/..", "assets/page.js", "page.js/"):
        assert http_call(f"{platform.url}/_local/page/{path}").status != 200


def test_a_run_does_not_reach_what_is_the_owners(api):
    asks = (
        "import os, urllib.error, urllib.request as u\n"
        "for path in ('stats', 'requests', 'faults', 'page/overview'):\n"
        "    key = {'Authorization': 'Bearer ' + os.environ['CIVIS_API_KEY']}\n"
        "    url = os.environ['CIVIS_API_ENDPOINT'] + '/_local/' + path\n"
        "    try: print(u.urlopen(u.Request(url, headers=key)).status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    job, run = api.run(f'exec python3 -c "{asks}"')
    assert api.wait(job, run)["state"] == "succeeded"
    assert api.logs(job, run, "info")[:4] == ["403", "403", "403", "401"]


# --- what they are told --------------------------------------------------------------------------


def test_runs_with_times_states_and_logs(api, ask):
    job, run = api.run("echo one; echo two >&2; exit 3", name="a name")
    api.wait(job, run)
    found = ask(f"runs/{run}")
    about = found["run"]
    assert about["state"] == "failed"
    assert about["name"] == "a name"
    assert about["allowed"] == 256
    assert about["created"] <= about["started"] <= about["finished"] <= found["now"]
    texts = {text: level for _, _, level, text in found["lines"]}
    assert texts["one"] == "info"
    assert texts["two"] == "error"
    last = found["lines"][-1][0]
    assert ask(f"runs/{run}?after={last}")["lines"] == []
    assert run in [about["id"] for about in ask(f"jobs/{job}")["runs"]]
    assert run in [about["id"] for about in ask("overview")["runs"]]
    assert ask("overview")["counts"]["failed"] >= 1


def test_a_log_that_grows(api, ask):
    job, run = api.run("echo first; read line < /dev/null; while sleep 0.1; do echo more; done")
    until(lambda: ask(f"runs/{run}")["lines"])
    found = ask(f"runs/{run}")
    assert found["run"]["where"].startswith("process ")
    last = found["lines"][-1][0]
    until(lambda: ask(f"runs/{run}?after={last}")["lines"])
    api("DELETE", f"/scripts/containers/{job}/runs/{run}")
    api.wait(job, run)


def test_a_long_log_is_shown_from_its_end(api, ask, platform):
    lines = overview.MOST_LINES + 500
    job, run = api.run(f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done")
    api.wait(job, run)
    found = ask(f"runs/{run}")
    assert len(found["lines"]) == overview.MOST_LINES
    assert found["lines"][-1][3] == str(lines - 1)
    assert found["left_out"] == 500


@pytest.mark.parametrize("path", ["runs/1", "jobs/1", "runs/x", "runs/", "runs/-1", "nothing", ""])
def test_what_is_not_there(ask, path):
    assert ask(path).status == 404
    assert ask("runs/" + "9" * 30).status == 404


def test_tasks_of_a_pool(platform, ask, until):
    before = ask("overview")["chart"]["begun"][-1]
    with ContainerPoolExecutor(2, platform=platform) as executor:
        assert list(executor.map(abs, range(9))) == list(range(9))
        runs = {future.run_id for future in [executor.submit(abs, 1)] if future.result() == 1}
        # A result may be here before the platform has read the line that says where its call began.
        until(lambda: ask("overview")["chart"]["begun"][-1] - before == 10)
        found = ask("overview")
        assert found["counts"]["running"] >= 1
        run = ask(f"runs/{runs.pop()}")["run"]
    assert run["tasks"] >= 1
    assert re.fullmatch(r"\d+ \(attempt 1\)", run["task"])
    assert ask("overview")["chart"]["running"][-1] == 0
    for series in ("queued", "running", "ended", "begun"):
        values = ask("overview")["chart"][series]
        assert len(values) == overview.POINTS + 1
        assert min(values) >= 0


def test_asking_is_not_counted(platform, ask):
    platform.reset()
    ask("overview")
    assert not platform.stats().requests


def test_displays_have_a_link(platform):
    with ContainerPoolExecutor(1, platform=platform) as executor:
        html = executor._repr_html_()
        link = re.search(r'<a href="([^"]*#ticket=[^"]*)"', html)[1]
        assert enter(platform, ticket_of(link)).status == 200
        assert platform.api_key not in unquote(html)
        # It is made from memory, as all displays are.
        platform.reset()
        assert executor._repr_html_() != html
        assert not platform.stats().requests


# --- a real browser ------------------------------------------------------------------------------


def browse(url, profile, *options):
    command = [
        CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=6000",
        "--window-size=1100,900", *options, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
def test_in_a_browser(tmp_path, api):
    with (
        LocalPlatform() as platform,
        ContainerPoolExecutor(2, platform=platform, name=NASTY) as executor,
    ):
        futures = [executor.submit(time.sleep, 0.01) for _ in range(6)]
        assert [future.result() for future in futures] == [None] * 6
        job, run = futures[0].job_url, futures[0].run_id
        profile = tmp_path / "profile"

        refused = browse(job, profile, "--dump-dom")
        assert "LocalPlatform.page" in refused
        assert "worker" not in refused.partition("<main")[2].partition("</main>")[0]

        everything = browse(platform.page, profile, "--dump-dom")
        assert "<title>civis_futures</title>" in everything  # the name has not run
        assert "&lt;script&gt;document.title='run'&lt;/script&gt;&lt;b&gt;&amp;amp;" in everything
        assert "begun: 6" in everything
        assert f"/runs/{run}" in everything

        # The same browser, without a ticket: what the displays and messages link to.
        assert f">{run}</a>" in browse(job, profile, "--dump-dom")
        log = browse(f"{job}/runs/{run}", profile, "--dump-dom")
        assert "civis_futures: task 0 begins (attempt 1)" in log

        # Another one has no pass, nor has anybody else at the same address.
        assert "LocalPlatform.page" in browse(job, tmp_path / "other", "--dump-dom")
        picture = tmp_path / "page.png"
        browse(platform.url, profile, f"--screenshot={picture}")
        assert picture.read_bytes().startswith(b"\x89PNG")
