"""A conversation whose every text is hostile runs no script, and leaves the page usable."""

from urllib.parse import quote

from access import log_in
from services import chromium, expect


def a_hostile_conversation_is_harmless(site):
    for options in ({}, {"viewport": chromium.PHONE, "is_mobile": True}):
        with site.window(["/"], **options) as page:
            log_in(site, page)
            expect(page.get_by_role("navigation").first).to_be_visible()
            for where in ("/conversations", "/live", "/dead", f"/conversations?text={quote('<script>')}"):
                page.goto(site.locked + where)
                assert page.evaluate("document.querySelectorAll('script:not([src]), img[src=x]').length") == 0, where
                over, elements = chromium.horizontal_overflow(page)
                assert over <= 0, f"{where} is {over} px too wide: {elements}"


CHECKS = [a_hostile_conversation_is_harmless]
