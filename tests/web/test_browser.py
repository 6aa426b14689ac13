"""The pages in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from web_site import Site, Sites  # type: ignore[import-not-found,unused-ignore]

from policy.model import Objection, Scope, Via

pytest_plugins = ("web_site",)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("no Chromium: install the Debian package `chromium` (apt-get install chromium)")
    async with async_playwright() as play:
        browser = await play.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@dataclass
class Reader:
    """One person at a page: what the page asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def reader(browser: Browser, **context: Any) -> AsyncIterator[Reader]:
    async with await browser.new_context(**context) as c:
        one = Reader(await c.new_page())
        one.page.on("request", lambda request: one.requests.append(request.method))
        one.page.on("console", lambda message: one.complaints.append(message.text))
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.on("dialog", lambda dialog: one.complaints.append(f"dialog {dialog.message}"))
        yield one


async def test_a_scanner_with_a_browser_that_waits_changes_nothing(
    site: Site, browser: Browser
) -> None:
    async with reader(browser) as one:
        await one.page.clock.install()
        await one.page.goto(site.url + site.link(stream="sales"), wait_until="networkidle")
        await one.page.clock.fast_forward(600_000)
        await one.page.mouse.move(200, 200)
        await one.page.mouse.wheel(0, 1000)
        await one.page.evaluate("() => new Promise(done => requestAnimationFrame(done))")
        assert one.requests == ["GET"], "nothing else is loaded, nothing is sent"
        assert one.complaints == []
    assert await site.events() == []


async def test_the_button_works_without_javascript(site: Site, browser: Browser) -> None:
    async with reader(browser, java_script_enabled=False, locale="nl-NL") as one:
        link = site.url + site.link()
        await one.page.goto(link)
        await expect(one.page).to_have_title("Afmelden – Acme Schoenen & Zn. B.V.")
        await one.page.get_by_role("button", name="Afmelden").click()
        await expect(one.page.get_by_role("heading")).to_have_text("U bent afgemeld")
        await expect(one.page.get_by_text("24 november 2026, 09:13 UTC")).to_be_visible()
        await expect(one.page.get_by_text("Mail die geen reclame is")).to_be_visible()
        assert one.page.url == link, "no redirect"
        assert one.requests == ["GET", "POST"]
        assert one.complaints == []
    assert await site.objections() == [Objection(scope=Scope.MARKETING, via=Via.PAGE)]


async def test_the_keyboard_alone_suffices_and_focus_shows(site: Site, browser: Browser) -> None:
    async with reader(browser, locale="en-GB") as one:
        await one.page.goto(site.url + site.link(stream="sales"))
        await one.page.keyboard.press("Tab")
        first = one.page.get_by_role("button", name="Unsubscribe")
        await expect(first).to_be_focused()
        await expect(first).to_have_css("outline-style", "solid")
        await one.page.keyboard.press("Tab")
        await expect(one.page.get_by_role("button", name="Stop all marketing")).to_be_focused()
        await one.page.keyboard.press("Enter")
        await expect(one.page.get_by_role("heading")).to_have_text("You are unsubscribed")
        assert one.complaints == []
    assert await site.objections() == [Objection(scope=Scope.MARKETING, via=Via.PAGE)]


async def test_it_fits_a_small_phone(site: Site, browser: Browser) -> None:
    async with reader(browser, viewport={"width": 320, "height": 640}, locale="nl-NL") as one:
        for path in (site.link(stream="sales"), "/u/nope"):
            await one.page.goto(site.url + path)
            wide = await one.page.evaluate(
                "() => [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert wide[0] <= wide[1]
        await one.page.goto(site.url + site.link())
        box = await one.page.get_by_role("button").bounding_box()
        assert box
        assert box["height"] >= 44  # WCAG 2.5.5
        assert await one.page.locator("html").get_attribute("lang") == "nl"
        assert await one.page.locator("h1").count() == 1
        assert await one.page.get_by_role("main").count() == 1


async def test_the_style_applies_under_its_policy(site: Site, browser: Browser) -> None:
    """A hash that did not match would leave a plain page and a complaint."""
    async with reader(browser, color_scheme="light") as one:
        await one.page.goto(site.url + site.link())
        await expect(one.page.get_by_role("button")).to_have_css(
            "background-color", "rgb(247, 201, 72)"
        )
        await expect(one.page.get_by_role("button")).to_have_css("color", "rgb(0, 0, 0)")
        assert one.complaints == []


async def test_names_cannot_script(sites: Sites, browser: Browser) -> None:
    evil = "</style><img src=x onerror=alert(1)><svg onload=alert(2)>"
    site = await sites.start(
        change=lambda text: text.replace("Acme Schoenen & Zn. B.V.", evil).replace(
            "privacy@acme.example", evil
        )
    )
    async with reader(browser) as one:
        await one.page.goto(site.url + site.link(), wait_until="networkidle")
        await expect(one.page.get_by_text(evil).first).to_be_visible()
        assert await one.page.locator("img, svg, script").count() == 0
        assert one.requests == ["GET"]
        assert one.complaints == []


async def test_no_other_site_can_frame_the_page(site: Site, browser: Browser) -> None:
    async with reader(browser) as one:
        await one.page.set_content(f'<iframe src="{site.url}{site.link()}"></iframe>')
        await one.page.wait_for_load_state("networkidle")
        assert any("frame-ancestors" in text for text in one.complaints)
        assert await one.page.frames[1].get_by_role("button").count() == 0
    assert await site.events() == []
