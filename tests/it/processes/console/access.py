"""Nothing is served without a token where one is needed."""

from urllib.parse import quote

from services import expect

PATHS = ["/", "/live", "/conversations", "/conversations?text=a", "/dead", "/no-such-page"]


def without_a_token_nothing_is_served(site):
    """Each path answers 401 or the login page, also to a script."""
    hostile = quote(site.hostile_id, safe="")
    paths = [*PATHS, f"/conversations/{hostile}", f"/dead/{hostile}", "/live/events", f"/conversations/{hostile}/audio.wav"]
    context = site.browser.new_context()
    for path in paths:
        answer = context.request.get(site.locked + path, max_redirects=0)
        where = answer.headers.get("location", "")
        refused = answer.status in (401, 403) or answer.status in (302, 303) and where.startswith("/login")
        assert refused, f"{path}: {answer.status} {where}"
        assert "alert(" not in answer.text() and "VOICE" not in answer.text(), path
    for path in ("/dead/replay", "/dead/drop"):
        answer = context.request.post(site.locked + path, form={"id": "1"}, max_redirects=0)
        assert answer.status in (302, 303, 401, 403, 404, 405), f"{path}: {answer.status}"
    context.close()


def log_in(site, page, token=None):
    page.goto(site.locked + "/")
    page.get_by_label("Token").fill(token or site.token)
    page.get_by_role("button", name="Log in").click()


def a_token_opens_the_pages_until_logout(site):
    with site.window(["/", "/login"]) as page:
        log_in(site, page, "a-wrong-token")
        expect(page.get_by_role("main")).to_contain_text("token")
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        log_in(site, page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        cookie, = page.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict", cookie
        assert site.token not in cookie["value"]
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert not page.context.cookies(), page.context.cookies()
        # The old cookie does not work any more.
        page.context.add_cookies([cookie])
        page.goto(site.locked + "/conversations")
        expect(page.get_by_label("Token")).to_be_visible()


CHECKS = [without_a_token_nothing_is_served, a_token_opens_the_pages_until_logout]
