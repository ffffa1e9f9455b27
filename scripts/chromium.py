"""Starts the Chromium of scripts/install-test-tools, and notes what a page must not do.

Used by the tests of the console, the screenshots and the benchmark. Runs in .tools/venv.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
# Playwright's own Node.js is not installed.
os.environ.setdefault("PLAYWRIGHT_NODEJS_PATH", shutil.which("node") or "node")

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sys.exit("Playwright is missing: run scripts/install-test-tools, and use the Python of .tools/venv")

AXE = ROOT / ".tools/axe.min.js"
PHONE = {"width": 380, "height": 800}
DESKTOP = {"width": 1280, "height": 800}


@contextlib.contextmanager
def start(extra=()):
    """Yields a headless Chromium. It runs as root and in a container with a small /dev/shm."""
    executable = ROOT / ".tools/chromium"
    if not executable.exists():
        sys.exit(f"{executable} is missing: run scripts/install-test-tools")
    arguments = ["--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", *extra]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, chromium_sandbox=False, args=arguments)
        yield browser
        browser.close()


class Watch:
    """Notes what the pages of a context do and a page of the console must not do."""

    def __init__(self, context, origins):
        self.found = []
        # Answers with these paths may have an error status.
        self.expected_errors = []
        self.origins = origins
        context.on("page", self._watch)
        context.on("request", self._request)
        context.on("response", self._response)

    def _watch(self, page):
        page.on("pageerror", lambda error: self._note(page, f"uncaught {error}"))
        page.on("dialog", lambda dialog: (self._note(page, f"dialog {dialog.message!r}"), dialog.dismiss()))
        page.on("console", lambda message: self._message(page, message))

    def _message(self, page, message):
        # Chromium reports a violation of the policy here, and an error status, too, which `_response` handles.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self._note(page, f"console {message.type}: {message.text}")

    def _request(self, request):
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and f"{address.scheme}://{address.netloc}" not in self.origins:
            self.found.append(f"request to another host: {request.url}")

    def _response(self, response):
        path = urlsplit(response.url).path
        if response.status >= 400 and path not in self.expected_errors:
            self.found.append(f"{response.request.method} {response.url}: {response.status}")

    def _note(self, page, text):
        self.found.append(f"{page.url}: {text}")

    def check(self):
        """Raises an error if something was noted."""
        assert not self.found, "\n".join(self.found)


def horizontal_overflow(page):
    """Returns by how many pixels the page is wider than its window, and the widest elements."""
    return page.evaluate(
        """() => {
            // A phone shows a page without a viewport as wide as on a desktop, and small.
            const width = Math.min(document.documentElement.clientWidth, screen.width);
            const over = document.scrollingElement.scrollWidth - width;
            const wide = over <= 0 ? [] : [...document.querySelectorAll('body *')]
                .filter(element => element.getBoundingClientRect().right > width + 1)
                .map(element => `${element.tagName}.${element.className}: ${element.textContent.trim().slice(0, 40)}`);
            return [over, wide.slice(0, 10)];
        }"""
    )


def accessibility_findings(page):
    """Returns the serious and critical findings of axe-core. The context must have `bypass_csp`, because axe-core adds a style."""
    page.evaluate(AXE.read_text())
    result = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{finding['id']} ({finding['impact']}): {node['target']} {node['html'][:160]} {node['failureSummary']}"
        for finding in result["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]
