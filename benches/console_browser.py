"""Measures the pages of a running console in Chromium, each in a new window with an empty cache.

    .tools/venv/bin/python benches/console_browser.py http://127.0.0.1:8090 CONVERSATION_ID [ROUNDS]

Prints one line of JSON for each page, medians in milliseconds: `first_byte_ms` and `load_ms` from the start of the navigation, and
the bytes that came over the network. The conversation needs a recording; `first_sound_ms` is the time from the click on the first turn until
the recording is heard. `scripts/install-test-tools` installs what it needs.
"""

import json
import statistics
import sys
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import chromium

LOADED = """() => {
    const page = performance.getEntriesByType('navigation')[0];
    const parts = performance.getEntriesByType('resource').filter(part => part.name.includes('/assets/'));
    return {
        first_byte_ms: page.responseStart, load_ms: page.loadEventEnd,
        page_bytes: page.transferSize, asset_bytes: parts.reduce((sum, part) => sum + part.transferSize, 0),
    };
}"""
# Resolves when the position of the recording moves.
FIRST_SOUND = """() => new Promise(resolve => {
    document.addEventListener('click', event => { window.clicked ??= event.timeStamp; }, {capture: true});
    let before = null;
    const look = () => {
        const audio = document.querySelector('audio');
        const plays = window.clicked && audio && !audio.paused && !audio.seeking;
        // The click also moves the position, to the start of the turn.
        if (plays && before !== null && audio.currentTime > before) return resolve(performance.now() - window.clicked);
        before = plays ? audio.currentTime : null;
        requestAnimationFrame(look);
    };
    look();
})"""


def load(browser, url):
    context = browser.new_context(viewport=chromium.DESKTOP)
    page = context.new_page()
    page.goto(url, wait_until="load")
    # The policy of the pages forbids what `wait_for_function` does.
    while page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") == 0:
        page.wait_for_timeout(10)
    measured = page.evaluate(LOADED)
    context.close()
    return measured


def first_sound(browser, url):
    context = browser.new_context(viewport=chromium.DESKTOP)
    page = context.new_page()
    page.goto(url)
    page.evaluate(f"window.sound = ({FIRST_SOUND})(); 0")
    page.get_by_role("button", name="Play from").first.click()
    measured = page.evaluate("window.sound")
    context.close()
    return {"first_sound_ms": measured}


def medians(measured):
    return {name: round(statistics.median(one[name] for one in measured), 1) for name in measured[0]}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    console, conversation, rounds = sys.argv[1].rstrip("/"), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5
    call = f"/conversations/{quote(conversation, safe='')}"
    with chromium.start() as browser:
        for path in ("/", "/live", "/conversations", "/conversations?text=booking", call, "/dead"):
            load(browser, console + path)  # the first one also warms up the browser
            print(json.dumps({"page": path} | medians([load(browser, console + path) for _ in range(rounds)])), flush=True)
        heard = [first_sound(browser, console + call) for _ in range(rounds)]
        print(json.dumps({"page": call} | medians(heard)))


main()
