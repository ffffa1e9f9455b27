"""What people do on the pages: see a delivery arrive, listen to a call, find a phrase, replay a dead letter."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from services import expect, wait_for


def the_overview_counts_deliveries_while_it_is_open(site):
    with site.window() as page:
        page.goto(site.console)
        stage = lambda name: page.get_by_role("listitem").filter(has=page.get_by_role("link", name=name, exact=True))
        number = lambda name: int(re.search(r"^\d+$", stage(name).inner_text(), re.MULTILINE)[0])
        before = {name: number(name) for name in ("received", "archived", "dead")}
        assert before["dead"] >= 1 and before["archived"] >= len(site.archived), before
        site.deliver(site.take_call())
        for name, more in (("received", 1), ("archived", 1), ("dead", 0)):
            expect(stage(name).get_by_text(str(before[name] + more), exact=True)).to_be_visible()


def the_live_page_shows_events_and_its_filter_and_pause_work(site):
    with site.window() as page:
        page.goto(f"{site.console}/live")
        first, second = site.take_call(), site.take_call()
        rows = lambda call: page.get_by_role("row").filter(has_text=call)
        site.deliver(first)
        expect(rows(first).filter(has_text="done").first).to_be_visible()
        expect(rows(first).get_by_role("link", name=first).first).to_have_attribute("href", f"/conversations/{first}")

        page.get_by_label("Kind").select_option("jobs")
        expect(rows(first).filter(has_text="delivery")).not_to_be_visible()
        expect(rows(first).first).to_be_visible()
        page.get_by_label("Kind").select_option("all")
        page.get_by_label("Text").fill("no such text")
        expect(rows(first).first).not_to_be_visible()
        page.get_by_label("Text").fill("")
        expect(rows(first).first).to_be_visible()

        page.get_by_role("button", name="Pause").click()
        site.deliver(second)
        goes_on = page.get_by_role("button", name=re.compile(r"Continue \(\d+ new\)"))
        expect(goes_on).to_be_visible()
        assert rows(second).count() == 0
        expect(page.get_by_text(re.compile(r"Paused since \d\d:\d\d; \d+ new events? waits?\."))).to_be_visible()
        goes_on.click()
        expect(rows(second).first).to_be_visible()


def a_conversation_plays_and_the_transcript_follows(site):
    with site.window() as page:
        page.goto(f"{site.console}/conversations/{quote(site.archived[0])}")
        turns = page.get_by_role("region", name="Transcript").get_by_role("listitem")
        heard = turns.and_(page.locator("[aria-current=true]"))
        seek = page.get_by_role("button", name=re.compile("^Play from"))
        position = lambda: page.evaluate("document.querySelector('audio').currentTime")
        is_playing = lambda: page.evaluate("!document.querySelector('audio').paused")
        expect(turns).not_to_have_count(0)
        page.get_by_role("heading", level=1).click()
        page.keyboard.press("Space")
        wait_for("sound", lambda: is_playing() and position() > 0.3)
        # A click on a turn plays it from its start.
        last = turns.filter(has=seek).last
        last.get_by_role("button", name=re.compile("^Play from")).click()
        expect(last).to_have_attribute("aria-current", "true")
        start = position()
        assert start > 1 and is_playing(), start
        # The highlight is on one turn, and moves to the next one when that is heard.
        page.evaluate("start => { document.querySelector('audio').currentTime = start - 1; }", start)
        expect(last).not_to_have_attribute("aria-current", "true")
        expect(heard).to_have_count(1)
        wait_for("the last turn", lambda: position() > start)
        expect(last).to_have_attribute("aria-current", "true")
        expect(heard).to_have_count(1)
        # Space pauses, and `k` goes back by a turn.
        page.get_by_role("heading", level=1).click()
        page.keyboard.press("Space")
        wait_for("a pause", lambda: not is_playing())
        page.keyboard.press("k")
        expect(last).not_to_have_attribute("aria-current", "true")
        assert position() < start
        # The waveform is there, and seeks.
        slider = page.get_by_role("slider", name="Position in the recording")
        slider.click(position={"x": 3, "y": 5})
        wait_for("the beginning", lambda: position() < 1)


def a_link_to_a_turn_marks_it_and_the_keys_start_there(site):
    with site.window() as page:
        url = f"{site.console}/conversations/{quote(site.archived[0])}"
        page.goto(url)
        ids = page.locator("#turns > li[data-at]").evaluate_all("rows => rows.map(row => row.id)")
        page.goto("about:blank")
        page.goto(f"{url}#{ids[1]}")
        expect(page.locator(f"#{ids[1]}")).to_have_attribute("aria-current", "true")
        page.keyboard.press("j")
        expect(page.locator(f"#{ids[2]}")).to_have_attribute("aria-current", "true")


def search_finds_a_phrase_of_a_transcript(site):
    stored, = site.archive.glob(f"**/{site.archived[1]}/conversation.json")
    said = " | ".join(turn["agent_response"] for turn in json.loads(stored.read_text())["turns"])
    phrase = re.findall(r"[A-Za-z]+ [a-z]+ [a-z]+", said)[-1]
    with site.window() as page:
        page.goto(f"{site.console}/conversations")
        expect(page.get_by_role("link", name=site.archived[0], exact=True)).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name=f"JSON of {site.archived[1]}").click()
        assert Path(download.value.path()).read_bytes() == stored.read_bytes()
        # "/" goes to the search.
        page.keyboard.press("/")
        page.keyboard.type(phrase)
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name=site.archived[1], exact=True)).to_be_visible()
        page.get_by_role("searchbox").fill("words that no caller says")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name=site.archived[1], exact=True)).to_have_count(0)


def a_dead_letter_is_replayed_after_its_preview_and_is_archived(site):
    call = site.take_call()
    site.control(f"calls/{call}/script", {"missing": True}, "PUT")
    with site.window() as page:
        page.goto(f"{site.console}/live?outcome=dead")
        site.deliver(call)
        expect(page.get_by_role("row").filter(has_text=call)).to_be_visible()
        page.get_by_role("navigation").get_by_role("link", name="Dead letters").click()
        row = page.get_by_role("row").filter(has_text=call)
        row.get_by_role("link").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Dead letter")
        expect(page.get_by_role("main")).to_contain_text("unknown_conversation")
        expect(page.get_by_role("main")).to_contain_text("correlation id")
        # The cause is fixed. A preview comes before the replay.
        site.control(f"calls/{call}/script", {}, "PUT")
        page.get_by_role("button", name=re.compile("^Replay")).click()
        confirm = page.get_by_role("button", name="Replay 1 dead letter")
        expect(confirm).to_be_visible()
        expect(page.get_by_role("main")).to_contain_text(call)
        confirm.click()
        expect(page.get_by_role("status").filter(has_text="1 dead letter")).to_be_visible()
        page.goto(f"{site.console}/live")
        expect(page.get_by_role("row").filter(has_text=call).filter(has_text="done").first).to_be_visible()
        page.goto(f"{site.console}/dead")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("row").filter(has_text=call)).to_have_count(0)
        page.goto(f"{site.console}/conversations/{quote(call)}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(call)


CHECKS = [
    the_overview_counts_deliveries_while_it_is_open,
    the_live_page_shows_events_and_its_filter_and_pause_work,
    a_conversation_plays_and_the_transcript_follows,
    a_link_to_a_turn_marks_it_and_the_keys_start_there,
    search_finds_a_phrase_of_a_transcript,
    a_dead_letter_is_replayed_after_its_preview_and_is_archived,
]
