"""Everyone can use every page: with the keyboard alone, on a phone, in the dark, with a screen reader, without JavaScript."""

from urllib.parse import quote

from services import chromium, expect


def paths(site):
    """Returns the path of each page."""
    return [
        "/",
        "/live",
        "/conversations",
        "/conversations?text=booking",
        f"/conversations/{quote(site.archived[0])}",
        "/dead",
        f"/dead/{quote(site.dead)}",
        "/no-such-page",
    ]


def open_each(site, page, with_scripts=True):
    """Opens each page, and yields its path once its content is there."""
    for path in paths(site):
        page.goto(site.console + path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if path == "/live" and with_scripts:
            expect(page.get_by_role("row").nth(1)).to_be_visible()
        yield path


def no_page_has_a_serious_accessibility_finding(site):
    findings = {}
    for colours in ("light", "dark"):
        # axe-core adds a style, which the policy of the pages forbids.
        with site.window(["/no-such-page"], bypass_csp=True, color_scheme=colours, reduced_motion="reduce") as page:
            for path in open_each(site, page):
                for finding in chromium.accessibility_findings(page):
                    findings.setdefault(finding, f"{path} ({colours})")
            page.goto(site.locked)
            for finding in chromium.accessibility_findings(page):
                findings.setdefault(finding, f"login ({colours})")
    assert not findings, "\n".join(f"{where}: {finding}" for finding, where in findings.items())


def no_page_scrolls_sideways_on_a_phone(site):
    wide = []
    with site.window(["/no-such-page"], viewport=chromium.PHONE, has_touch=True, is_mobile=True) as page:
        for path in open_each(site, page):
            over, elements = chromium.horizontal_overflow(page)
            if over > 0:
                wide.append(f"{path} is {over} px too wide: {elements}")
    assert not wide, "\n".join(wide)


def the_keyboard_alone_reaches_everything(site):
    """Tab visits each link, button and field of a page, and each shows that it has the focus."""
    with site.window(["/no-such-page"]) as page:
        for path in open_each(site, page):
            page.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
            expected, seen, without_focus_mark = page.evaluate(OPERABLE), [], []
            # A date and a player have some stops inside.
            for _ in range(6 * expected + 10):
                page.keyboard.press("Tab")
                element = page.evaluate(FOCUSED)
                if element is None or element["number"] in seen and element["number"] != seen[-1]:
                    break
                if element["number"] not in seen and not element["marked"]:
                    without_focus_mark.append(element["html"])
                seen.append(element["number"])
            missing = page.evaluate("seen => window._operable.filter((_, i) => !seen.includes(i)).map(e => e.outerHTML.slice(0, 120))", seen)
            assert not missing, f"{path}: Tab does not reach {missing}"
            assert not without_focus_mark, f"{path}: the focus is not visible on {without_focus_mark}"


# Numbers what a mouse can operate. A radio group and a closed `details` have one stop.
OPERABLE = """() => {
    const elements = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary, audio[controls], [onclick], [role=button], [role=slider]')];
    window._operable = elements.filter(element => !element.disabled && element.checkVisibility({visibilityProperty: true}));
    return window._operable.length;
}"""
FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const number = window._operable.indexOf(element);
    const style = getComputedStyle(element);
    const marked = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1 || style.boxShadow !== 'none';
    return {number, marked, html: element.outerHTML.slice(0, 120)};
}"""


def pages_work_without_javascript(site):
    with site.window(["/no-such-page"], java_script_enabled=False) as page:
        for path in open_each(site, page, with_scripts=False):
            if path == "/live":
                # Chromium does not render it when the driver turns scripts off.
                assert "needs JavaScript" in page.content()
        page.goto(site.console)
        page.get_by_role("navigation").get_by_role("link", name="Conversations").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Conversations")


CHECKS = [
    no_page_has_a_serious_accessibility_finding,
    no_page_scrolls_sideways_on_a_phone,
    the_keyboard_alone_reaches_everything,
    pages_work_without_javascript,
]
