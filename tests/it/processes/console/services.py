"""The services that a test of the console looks at, and browser windows with all rules on."""

import contextlib
import json
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "scripts"))
import chromium
from playwright.sync_api import expect

# Bounds a wait. No step takes this long, even on a busy machine.
TIMEOUT_MS = 40_000
expect.set_options(timeout=TIMEOUT_MS)


class Site:
    """The addresses of the services, and the simulator's controls."""

    def __init__(self, browser, setup):
        self.browser = browser
        self.console, self.locked = setup["console"], setup["locked_console"]
        self.receiver, self.simulator = setup["receiver"], setup["simulator"]
        self.token, self.hostile_id = setup["token"], setup["hostile_id"]
        self.archive = Path(setup["archive"])
        # Each check takes calls that no other check uses.
        self.archived, self.dead, self.calls = setup["archived"], setup["dead"], list(setup["calls"])
        self.pages = []

    def take_call(self):
        return self.calls.pop(0)

    def control(self, path, body=None, method="POST"):
        data = json.dumps(body or {}).encode()
        url = f"{self.simulator}/_simulator/{path}"
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def deliver(self, *calls):
        """Sends the signed events of calls to the receiver."""
        self.control("deliver", {"url": self.receiver, "conversation_ids": list(calls), "events": {"handoffs": False}})

    @contextlib.contextmanager
    def window(self, expected_errors=(), **options):
        """Yields a page of a new context. At the end, checks that no page did what it must not do."""
        options = {"viewport": chromium.DESKTOP, "timezone_id": "Europe/London", "locale": "en-GB"} | options
        context = self.browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        watch = chromium.Watch(context, {self.console, self.locked})
        watch.expected_errors = list(expected_errors)
        page = context.new_page()
        self.pages.append(page)
        yield page
        watch.check()
        context.close()
        self.pages.clear()

    def show_failure(self):
        """Prints what the open windows show."""
        for page in self.pages:
            with contextlib.suppress(Exception):
                print(f"--- {page.url} ---\n{page.locator('body').aria_snapshot()[:6000]}", file=sys.stderr)
                page.context.close()
        self.pages.clear()


def wait_for(what, check):
    """Polls until `check` returns something true, and returns it. For what is not in a page."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not (found := check()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.05)
    return found
