"""Takes the pictures of the console for the documentation. `scripts/screenshots` installs what it needs.

Arguments: the program, and the names of pictures (default: all).
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import chromium
from playwright.sync_api import expect

FOLDER = chromium.ROOT / "docs/screenshots"
MAX_BYTES = 150_000
SEED = 7
CALLS = 60
# Slow enough for lines of some minutes on the overview.
RATE = 0.4
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<include>/etc/fonts/fonts.conf</include>
<match target="pattern"><test name="family"><string>system-ui</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>
<match target="pattern"><test name="family"><string>sans-serif</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match></fontconfig>"""
# name: page, colours, size
PICTURES = {
    f"{page}-{colours}{'-phone' if size is chromium.PHONE else ''}": (page, colours, size)
    for page in ("overview", "live", "conversations", "conversation", "dead")
    for colours, size in (("light", chromium.DESKTOP), ("dark", chromium.DESKTOP), ("light", chromium.PHONE))
}


def request(url, body=None, method=None):
    """Sends JSON and returns JSON."""
    data = None if body is None else json.dumps(body).encode()
    sent = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(sent, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class Demo:
    """A running demo: some calls are archived, and some became dead letters."""

    def __init__(self, program, folder):
        arguments = ["demo", "--json", "--seed", str(SEED), "--calls", str(CALLS), "--rate", str(RATE)]
        self.process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, cwd=folder, text=True)
        started = json.loads(self.process.stdout.readline())
        self.console, self.receiver, self.simulator = (started[name].rstrip("/") for name in ("console", "url", "simulator"))

    def control(self, path, body=None, method=None):
        return request(f"{self.simulator}/_simulator/{path}", body, method)

    def fail_some(self):
        """Makes dead letters for two reasons: conversations that PolyAI does not know, and a key without a scope."""
        unknown, refused = ([self.control("calls", {})["calls"][0]["id"] for _ in range(count)] for count in (3, 2))
        for call in unknown:
            self.control(f"calls/{call}/script", {"missing": True}, "PUT")
        for call in refused:
            self.control(f"calls/{call}/script", {"faults": [{"action": {"status": 403}}]}, "PUT")
        self.deliver(unknown + refused)

    def deliver(self, calls):
        self.control("deliver", {"url": self.receiver, "conversation_ids": calls})

    def wait_until_archived(self):
        for line in self.process.stdout:
            if json.loads(line)["step"] == "summary":
                return
        sys.exit("screenshots: the demo ended early")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def is_worth_hearing(call):
    is_wanted = call["channel"] == "VOICE-SIP" and call["environment"] == "live" and call["handoff"] and call["has_audio"]
    return is_wanted and 6 <= call["turns"] <= 9


def wait_for_dead_letters(browser, demo):
    page = browser.new_page()
    page.goto(demo.console)
    expect(page.get_by_role("listitem").filter(has_text="dead").get_by_text("5", exact=True)).to_be_visible(timeout=120_000)
    page.close()


def take(browser, demo, name, call):
    """Opens a page as a person sees it, and takes its picture."""
    page_name, colours, size = PICTURES[name]
    context = browser.new_context(
        viewport=size, color_scheme=colours, timezone_id="Europe/London", locale="en-GB", reduced_motion="reduce"
    )
    page = context.new_page()
    path = {"overview": "/", "conversation": f"/conversations/{call}"}.get(page_name, f"/{page_name}")
    page.goto(demo.console + path)
    if page_name == "live":
        demo.deliver([demo.control("calls", {})["calls"][0]["id"] for _ in range(6)])
        expect(page.get_by_role("row").filter(has_text="ready").nth(5)).to_be_visible(timeout=30_000)
    if page_name == "conversation":
        play(page)
    png = page.screenshot(animations="disabled", scale="css")
    context.close()
    quantized = subprocess.run(
        ["pngquant", "--strip", "--speed", "1", "--nofs", "128", "-"], input=png, capture_output=True, check=True
    )
    if len(quantized.stdout) > MAX_BYTES:
        sys.exit(f"screenshots: {name} has {len(quantized.stdout)} bytes, more than {MAX_BYTES}")
    (FOLDER / f"{name}.png").write_bytes(quantized.stdout)
    print(f"{name}.png: {len(quantized.stdout) // 1000} kB")


def play(page):
    """Plays some seconds."""
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("Space")
    while page.evaluate("document.querySelector('audio').currentTime") < 9:
        page.wait_for_timeout(100)


def main():
    program, names = sys.argv[1], sys.argv[2:] or list(PICTURES)
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        sys.exit(f"screenshots: no picture is called {unknown[0]}; there are {', '.join(PICTURES)}")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fonts = Path(folder, "fonts.conf")
        fonts.write_text(FONTS)
        os.environ["FONTCONFIG_FILE"] = str(fonts)
        demo = Demo(str(Path(program).resolve()), folder)
        try:
            demo.fail_some()
            demo.wait_until_archived()
            call = next(call["id"] for call in demo.control("calls")["calls"] if is_worth_hearing(call))
            with chromium.start(["--lang=en-GB"]) as browser:
                wait_for_dead_letters(browser, demo)
                for name in names:
                    take(browser, demo, name, call)
        finally:
            demo.stop()


main()
