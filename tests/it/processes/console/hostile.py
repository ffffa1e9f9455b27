"""A conversation whose every text is hostile runs no script, and leaves the page usable."""

from urllib.parse import quote

from access import log_in
from services import chromium, expect


def a_hostile_conversation_is_harmless(site):
    path = f"/conversations/{quote(site.hostile_id, safe='')}"
    for options in ({}, {"viewport": chromium.PHONE, "is_mobile": True}):
        with site.window(["/"], **options) as page:
            log_in(site, page)
            expect(page.get_by_role("navigation").first).to_be_visible()
            for where in ("/conversations", "/live", "/dead", f"/conversations?text={quote('<script>')}", path):
                page.goto(site.locked + where)
                assert page.evaluate("document.querySelectorAll('script:not([src]), img[src=x]').length") == 0, where
                over, elements = chromium.horizontal_overflow(page)
                assert over <= 0, f"{where} is {over} px too wide: {elements}"
            main = page.get_by_role("main")
            # The text is there as text.
            expect(main.get_by_text("<script>alert('text')</script>").first).to_be_visible()
            expect(main.get_by_text("the last turn")).to_be_visible()
            # An override in one text does not reverse its neighbours: each is isolated.
            reversed_text = main.get_by_text("reversed").first
            assert reversed_text.evaluate("element => getComputedStyle(element).unicodeBidi") in ("isolate", "plaintext", "isolate-override")
            # A turn of 1 MB shows its first part.
            assert len(main.inner_text()) < 300_000


CHECKS = [a_hostile_conversation_is_harmless]
