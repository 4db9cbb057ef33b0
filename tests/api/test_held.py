"""A request that the platform holds until there is news, as the client makes it; no network."""

from __future__ import annotations

import httpx
import pytest

from civis_futures import PlatformError
from civis_futures._api.transport import HOLD_HEADER, SINCE_HEADER, LongPoll, is_json

LONG = 3600.0


class Platform:
    """What answers; `cut` is what becomes of a request that is held."""

    def __init__(self, offer="20", cut=None):
        self.offer, self.cut = offer, cut
        self.version = 1
        self.asked = []  # (whether it was to be held, whether it was not to be tried again)

    def __call__(self, request, once):
        hold = HOLD_HEADER in request.headers
        self.asked.append((hold, once))
        tag = f'W/"{self.version}"'
        headers = {"ETag": tag, **({HOLD_HEADER: self.offer} if self.offer else {})}
        if hold and self.cut == "hang up":
            raise PlatformError("cut")
        if hold and isinstance(self.cut, int):
            return httpx.Response(self.cut, request=request)
        if hold and request.headers["If-None-Match"] == tag and self.cut != "swallow":
            return httpx.Response(304, request=request)
        return httpx.Response(200, json=self.version, headers=headers, request=request)


def ask(poll, platform, seconds=LONG):
    poll.seconds = seconds
    request = httpx.Request("GET", "http://x/scripts", extensions={"timeout": {"read": 5}})
    response = poll.send(request, platform)
    assert response.request.extensions["timeout"] == {"read": 5}
    assert is_json(response)
    return response.extensions["value"]


def test_it_is_held_once_it_was_offered_and_news_come_with_it():
    poll, platform = LongPoll(), Platform()
    assert ask(poll, platform) == 1
    assert poll.offered == 20.0
    platform.version = 2
    assert ask(poll, platform) == 2
    assert platform.asked == [(False, False), (True, True)]


def test_what_is_as_it_was_is_told_again():
    poll, platform = LongPoll(), Platform()
    assert [ask(poll, platform), ask(poll, platform, 1e-9)] == [1, 1]


@pytest.mark.parametrize("offer", ["", "soon", "0"])
def test_without_an_offer_nothing_is_held(offer):
    poll, platform = LongPoll(), Platform(offer)
    assert [ask(poll, platform) for _ in range(3)] == [1, 1, 1]
    assert platform.asked == 3 * [(False, False)]


@pytest.mark.parametrize("cut", ["hang up", "swallow", 502, 504, None])
def test_what_is_cut_three_times_is_held_no_more(cut):
    """None: somebody answers for the platform, and before the time is over."""
    poll, platform = LongPoll(), Platform(cut=cut)
    assert [ask(poll, platform) for _ in range(8)] == 8 * [1]
    assert sum(hold for hold, _ in platform.asked) == 3
    assert poll.offered == 0.0


def test_an_outage_is_no_cut():
    poll, platform = LongPoll(), Platform()
    ask(poll, platform)
    for _ in range(5):

        def away(request, once):
            raise PlatformError("away")

        with pytest.raises(PlatformError):
            ask(poll, away)
        ask(poll, platform)
        platform.version += 1
    ask(poll, platform)
    assert poll.offered == 20.0


def test_what_comes_along_is_told_once_and_asked_for_since_the_last_time():
    """Whatever it is, it is not in memory until there is other news."""
    asked, poll = [], LongPoll()

    def platform(request, once):
        asked.append(request.headers.get(SINCE_HEADER))
        tag = f'W/"{len(asked)}"'
        headers = {"ETag": tag, HOLD_HEADER: "20", SINCE_HEADER: f"{len(asked)}"}
        if len(asked) > 2:
            return httpx.Response(304, request=request)
        return httpx.Response(200, json=[{"outputs": ["x"]}], headers=headers, request=request)

    told = [ask(poll, platform)[0].pop("outputs", None) for _ in range(3)]
    assert told == [["x"], ["x"], None]
    assert asked == [None, "1", "2"]
    assert not poll._last.content
