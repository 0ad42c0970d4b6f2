"""The explorer's page in a browser: what it computes, how it is used, and what it never does."""

import contextlib
import copy
import os
import re
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from playwright.sync_api import sync_playwright

import sgdm
from sgdm.explorer import write_page
from sgdm.surfaces import get_surface, list_surfaces

INSTALLED = Path(sys.prefix) / "browser"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SLIDERS = ("lr", "momentum", "weight_decay", "condition_number", "steps", "factor")
LONG_NAMES = sorted((row.name for row in sgdm.list_conventions() if row.runs), key=len)[-3:]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (INSTALLED / "chromium").exists():
        pytest.skip("there is no browser; run: python tools/install_browser.py")
    environment: dict[str, str | float | bool] = {
        **os.environ,
        "LD_LIBRARY_PATH": str(INSTALLED / "al2023" / "lib"),
        "FONTCONFIG_FILE": str(INSTALLED / "fonts.conf"),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=INSTALLED / "chromium", env=environment)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path)
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the page; afterwards, nothing was asked of a network and nothing went wrong."""
    contexts, wrong = [], []

    def opened(fragment="", *, size=DESKTOP, **options):
        options = {"viewport": size, "locale": "en-GB", "offline": True, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}#{fragment}")
        return page

    asked = []
    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url.partition("#")[0] for url in asked} <= {address, "data:,"}


# What it computes.

SERIES = """settings => {
  settings = {...settingsOf(""), ...settings};
  const runs = simulate(settings);
  return runs.map(({rule, map, points, loss, buffer, gap}) => ({
    points, loss, buffer, gap, constructor: codeOf(settings, rule),
    atDrop: dropCodeOf(settings, {rule, map}), converted: map !== null,
  }));
}"""


class Twin:
    """A run of sgdm.SGD, made and changed by the lines that the page shows."""

    def __init__(self, line, point):
        self.line = line
        self.p = torch.nn.Parameter(point.clone())
        own = SimpleNamespace(SGD=partial(sgdm.SGD, engine="eager"))
        self.optimizer = eval(line, {"sgdm": own, "params": [self.p]})  # noqa: S307 - our own line

    def taken_over(self):
        twin = Twin(self.line, self.p.detach())
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return twin

    def change(self, lines):
        exec(lines, {"sgdm": sgdm, "optimizer": self.optimizer})  # noqa: S102 - our own lines

    def buffer(self):
        b = self.optimizer.state[self.p].get("momentum_buffer")
        return 0.0 if b is None else b.norm().item()

    def step(self, gradient):
        """Take a step; return the point where its gradient was taken."""
        at = []

        def closure():
            at.append(self.p.detach().clone())
            self.p.grad = torch.tensor(gradient(*self.p.tolist()), dtype=torch.float64)
            return 0.0

        self.optimizer.step(closure)
        return at[0]


def python_series(settings, shown):
    """Run the optimizers of the page's lines on the page's surface."""
    surface = get_surface(settings["surface"])
    shape = {p.name: settings.get(p.name, p.default) for p in surface.parameters}
    start = torch.tensor(surface.start, dtype=torch.float64)
    twins = [Twin(run["constructor"], start) for run in shown]
    lowest = surface.value(*surface.minimum, **shape)
    series = [{"points": [], "loss": [], "buffer": [], "gap": []} for _ in shown]
    for t in range(settings["steps"] + 1):
        if t == settings["drop"]:
            first = twins[0]
            twins = [
                first.taken_over() if r["converted"] else w
                for r, w in zip(shown, twins, strict=True)
            ]
            for run, twin in zip(shown, twins, strict=True):
                twin.change(run["atDrop"])
        for own, twin in zip(series, twins, strict=True):
            own["buffer"].append(twin.buffer())
            point = twin.step(partial(surface.gradient, **shape))
            own["points"].append(point.tolist())
            own["loss"].append(surface.value(*point.tolist(), **shape) - lowest)
            ahead = point - torch.tensor(series[0]["points"][-1], dtype=torch.float64)
            own["gap"].append(ahead.norm().item())
    return series


def farthest(page, settings):
    """Return the largest difference of any number of the page from Python's."""
    shown = page.evaluate(SERIES, settings)
    wide = partial(torch.tensor, dtype=torch.float64)
    differences = [
        (wide(run[name]) - wide(own[name])).abs()
        for run, own in zip(shown, python_series(settings, shown), strict=True)
        for name in own
    ]
    assert all(bool(d.isfinite().all()) for d in differences)
    return max(d.max().item() for d in differences)


# The page shows three at most; what computes them takes any number. "torch" is the first.
RUNNABLE = [row.name for row in sgdm.list_conventions() if row.runs]
SCENES = {
    "quadratic": {"lr": 0.25, "momentum": 0.8, "steps": 120, "drop": 45, "condition_number": 12},
    **{
        surface.name: {"lr": surface.lr, "momentum": 0.9, "steps": 200, "drop": 60}
        for surface in list_surfaces()
        if surface.name != "quadratic"
    },
}
CONVERTED = {"convert": True, "nesterov": True}
CORRECTED = {"correct": True, "convert": True, "weight_decay": 0.01}
SWITCHES = [
    {},
    {"nesterov": True},
    {"correct": True, "nesterov": True, "weight_decay": 0.05},
    {"momentum": 0, "nesterov": True, "convert": True, "weight_decay": 0.02},
]
CASES = [
    *(("quadratic", switches) for switches in SWITCHES),
    *((surface, switches) for surface in SCENES for switches in (CONVERTED, CORRECTED)),
]


@pytest.mark.parametrize(("surface", "switches"), CASES, ids=str)
def test_the_numbers_are_pythons(visit, surface, switches):
    settings = {"surface": surface, **SCENES[surface], **switches, "rules": RUNNABLE}
    assert farthest(visit(), settings) < 1e-9


def test_the_comparison_with_python_can_fail(visit):
    page = visit()
    settings = {"surface": "quadratic", **SCENES["quadratic"], "rules": ["torch", "caffe"]}
    page.evaluate(
        "STEPS.push(STEPS[0]); STEPS[0] = (...a) => STEPS.at(-1)(...a).map((x) => x + 1e-7)"
    )
    assert farthest(page, settings) > 1e-9


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_page_converts_what_the_library_converts(visit, nesterov):
    settings = {**SCENES["quadratic"], **CONVERTED, "nesterov": nesterov, "rules": RUNNABLE}
    shown = visit().evaluate(SERIES, {"surface": "quadratic", **settings})
    converted = {name for name, run in zip(RUNNABLE, shown, strict=True) if run["converted"]}
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    possible = set()
    for name in RUNNABLE:
        first = Twin(shown[0]["constructor"], start)
        first.step(lambda x, y: (x, y))
        with contextlib.suppress(sgdm.errors.InvalidUseError):
            sgdm.convert_(first.optimizer, to=name)
            possible.add(name)
    assert converted == possible - {"torch"}


# How it is used.


def picture(page):
    return page.evaluate(
        "[...document.querySelectorAll('svg .run')].map((e) => e.getAttribute('d'))"
    )


def until(page, condition):
    """Wait for something; the page's policy keeps Playwright from waiting inside of it."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(10)


def drawn(page):
    """Wait until what was asked for is drawn."""
    until(page, "asked === 0")


def at(page):
    """Return where the handle says the drop is."""
    return int(page.get_attribute("#drop", "aria-valuenow"))


@pytest.mark.parametrize("name", SLIDERS)
def test_a_slider_moves_the_picture(visit, name):
    page = visit("weight_decay=0.01")
    before, value = picture(page), page.inner_text(f"output[for={name}]")
    page.focus(f"#{name}")
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert picture(page) != before
    assert page.inner_text(f"output[for={name}]") != value
    assert page.get_attribute(f"#{name}", "aria-valuetext") == page.inner_text(
        f"output[for={name}]"
    )
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert picture(page) == before


def test_a_slider_dragged_by_the_mouse_draws_at_once(visit):
    page = visit()
    box = page.locator("#momentum").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.9, y)
    page.mouse.down()
    seen = set()
    for share in (0.8, 0.6, 0.4):
        page.mouse.move(box["x"] + box["width"] * share, y)
        drawn(page)
        seen.add(tuple(picture(page)))
    page.mouse.up()
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("selector", "key"),
    [("#nesterov", "nesterov"), ("#convert", "convert"), ("#correct", "correct")],
)
def test_a_switch_moves_the_picture_and_the_code(visit, selector, key):
    page = visit("rules=torch,caffe")
    before = picture(page)
    page.focus(selector)
    page.keyboard.press("Space")
    drawn(page)
    assert page.is_checked(selector)
    assert picture(page) != before
    said = {"nesterov": "nesterov=True", "convert": 'sgdm.convert_(optimizer, to="caffe"'}
    assert said.get(key, "correct_momentum=True") in page.inner_text(".card-1")


def test_other_conventions_and_surfaces_can_be_chosen(visit):
    page = visit()
    assert page.locator(".card").count() == 2
    page.select_option("#rule-2", "nag")
    page.select_option("#rule-1", "keras3")
    drawn(page)
    assert page.locator(".card h3").all_inner_texts() == ["torch", "keras3", "nag"]
    page.select_option("#rule-2", "")
    page.select_option("#surface", "rosenbrock")
    drawn(page)
    assert page.locator(".card").count() == 2
    assert not page.is_visible("#condition_number")
    assert f"lr={get_surface('rosenbrock').lr}" in page.inner_text(".card-0 .constructor")


def test_the_drop_is_dragged_by_the_mouse(visit):
    page = visit()
    before = picture(page)
    handle = page.locator("#drop .grip").bounding_box()
    page.mouse.move(handle["x"] + 10, handle["y"] + 10)
    page.mouse.down()
    page.mouse.move(handle["x"] + 210, handle["y"] + 40, steps=4)
    page.mouse.up()
    drawn(page)
    assert at(page) > 50
    assert picture(page) != before
    moved = page.locator("#drop .grip").bounding_box()
    assert abs(moved["x"] - handle["x"] - 200) < 12  # the nearest step
    page.mouse.move(handle["x"], handle["y"])
    drawn(page)
    assert page.locator("#drop .grip").bounding_box() == moved


def test_the_drop_is_dragged_by_a_finger(visit):
    page = visit(size=PHONE, has_touch=True)
    page.locator("#drop").scroll_into_view_if_needed()
    handle = page.locator("#drop .grip").bounding_box()
    x, y = handle["x"] + 10, handle["y"] + 10
    fingers = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x + 40, "y": y + 60}]),
        ("touchMove", [{"x": x + 80, "y": y + 60}]),
        ("touchEnd", []),
    ):
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    drawn(page)
    assert at(page) > 60


def test_the_drop_is_moved_by_keys(visit):
    page = visit("drop=40&steps=120&lr=0.1&factor=0.1")
    page.focus("#drop")
    for key, step in {
        "ArrowRight": 41, "ArrowUp": 42, "ArrowLeft": 41, "ArrowDown": 40,
        "PageUp": 50, "PageDown": 40, "Home": 1, "End": 120,
    }.items():  # fmt: skip
        page.keyboard.press(key)
        drawn(page)
        assert at(page) == step, key
    assert page.get_attribute("#drop", "aria-valuetext") == "no drop"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert page.get_attribute("#drop", "aria-valuetext") == "step 1: ε falls from 0.1 to 0.01"


def test_fewer_steps_keep_the_drop_inside(visit):
    page = visit("drop=110&steps=120")
    page.focus("#steps")
    page.keyboard.press("Home")
    drawn(page)
    assert at(page) == 20
    assert page.get_attribute("#drop", "aria-valuemax") == "20"


LINK = (
    "rules=keras3,caffe,qhm&surface=beale&lr=0.0045&momentum=0.77&weight_decay=0.002&steps=150"
    "&drop=33&factor=0.25&nesterov=1&convert=1&correct=1&velocity=buffer&language=zh"
)


def test_a_link_restores_the_state(visit):
    page = visit(LINK)
    page.focus("#factor")
    page.keyboard.press("ArrowRight")
    until(page, "location.hash.includes('factor=0.28')")
    again = visit(page.evaluate("location.hash.slice(1)"))
    assert again.evaluate("settings") == page.evaluate("settings")
    assert picture(again) == picture(page)
    assert again.inner_text("#cards") == page.inner_text("#cards")
    again.evaluate("location.hash = '#lr=0.3'")
    until(again, "settings.lr === 0.3")


def test_the_link_is_copied_or_shown(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.click("#copy")
    until(page, "document.querySelector('#copy').textContent === 'Link copied'")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "lr=0.1" in page.url
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )
    page.click("#copy")
    page.wait_for_selector("#link", state="visible")
    assert page.input_value("#link") == page.url


@pytest.mark.parametrize(
    "fragment",
    [
        "rules=torch,nobody&surface=moon&lr=-1&momentum=NaN&steps=Infinity&drop=x&velocity=no",
        "rules=torch&lr=&factor=7&language=fr&condition_number=1e9&weight_decay=0x",
        "%E0%A4%A&rules=<img src=x>,&drop=-5",
    ],
)
def test_a_spoiled_link_is_the_usual_page(visit, fragment):
    page, usual = visit(fragment), visit("drop=1" if "drop=-5" in fragment else "")
    assert page.evaluate("settings") == usual.evaluate("settings")


def test_reset_keeps_the_language_alone(visit):
    page, usual = visit(LINK), visit("language=zh")
    page.click("#reset")
    drawn(page)
    assert page.evaluate("settings") == usual.evaluate("settings")


# How it looks and what it says.


def test_everything_is_said_in_both_languages(visit):
    page = visit(LINK.replace("zh", "en"))
    assert page.get_attribute("html", "lang") == "en"
    assert not re.search("[\u4e00-\u9fff]", page.inner_text("main"))
    page.click("[data-language=zh]")
    drawn(page)
    assert page.get_attribute("html", "lang") == "zh"
    own = page.evaluate("""() => {
      const foreign = document.querySelectorAll("[lang=en], pre, option, h3, .legend");
      for (const item of foreign) item.remove();
      return [...document.querySelectorAll("[aria-label], [aria-valuetext]")]
        .flatMap((e) => [e.ariaLabel, e.ariaValueText])
        .concat(document.body.innerText, document.title)
        .concat(document.querySelector("#announcement").innerText);
    }""")
    names = {"sgdm", "dev", "SGD", "Nesterov", "Goyal", "keras", "caffe", "qhm"}
    assert {word for text in own if text for word in re.findall("[A-Za-z]{2,}", text)} <= names
    assert page.evaluate("document.title").startswith("带动量的 SGD")


def test_the_language_is_the_browsers_at_first(visit):
    assert visit(locale="zh-TW").get_attribute("html", "lang") == "zh"
    assert visit(locale="fr-FR").get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(visit, width, language):
    fragment = f"rules={','.join(LONG_NAMES)}&language={language}&convert=1&correct=1&nesterov=1"
    page = visit(fragment, size={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = """[...document.querySelectorAll("main *:not(.run, clipPath *)")]
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML)"""
    assert page.evaluate(wide) == []


def test_what_diverges_is_said_and_drawn_as_such(visit):
    page = visit("surface=rosenbrock&lr=0.05&momentum=0.9&rules=torch,caffe,nag&convert=1")
    assert "Unstable: from step" in page.inner_text(".card-0 .verdict")
    assert "not finite" in page.inner_text(".card-2 dl")
    assert not re.search("NaN|Infinity", page.inner_html("main"))
    heights = page.evaluate(
        "[...document.querySelectorAll('main svg')].map((e) => e.getBoundingClientRect().height)"
    )
    assert max(heights) < 700
    assert page.evaluate("panelsOf(settings, runs)[1].ends[1]") == 1e6  # the loss begins at 24


def test_what_grows_is_said_to_be_unstable(visit):
    page = visit("lr=3&momentum=0.3&nesterov=1&rules=torch,caffe&drop=120")
    for card in (".card-0", ".card-1"):
        assert "Unstable: the loss has grown from 4.475 to" in page.inner_text(f"{card} .verdict")


def test_the_verdict_says_when_the_paths_part(visit):
    page = visit("rules=torch,caffe,negated&drop=40")
    assert "until the drop, then up to" in page.inner_text(".card-1 .verdict")
    assert page.inner_text(".card-2 .verdict") == "The same path as torch."
    page.check("#correct")
    drawn(page)
    assert page.inner_text(".card-1 .verdict") == "The same path as torch."


def test_the_results_are_announced(visit):
    page = visit()
    assert page.inner_text("#announcement") == ""
    page.focus("#lr")
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('#announcement').textContent !== ''")
    assert re.match(
        r"torch: loss above the minimum .+, gap 0\. caffe: loss", page.text_content("#announcement")
    )


def test_dark_and_light_differ(visit):
    def colours(scheme):
        page = visit(color_scheme=scheme)
        return page.evaluate("""() => [getComputedStyle(document.body).backgroundColor,
          getComputedStyle(document.querySelector(".run-0")).stroke]""")

    assert colours("light") == ["rgb(251, 251, 250)", "rgb(0, 114, 178)"]
    assert colours("dark") == ["rgb(18, 21, 25)", "rgb(86, 180, 233)"]


def test_nothing_moves_for_those_who_asked_for_that(visit):
    moving = "getComputedStyle(document.querySelector('#nesterov')).transitionDuration"
    assert visit(reduced_motion="reduce").evaluate(moving) == "0s"
    assert visit(reduced_motion="no-preference").evaluate(moving) != "0s"


def test_every_control_is_reached_by_the_tab_key_in_order(visit):
    page = visit()
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        active = page.evaluate(
            "document.activeElement.id || document.activeElement.dataset.language"
        )
        if not active or active in reached:
            break
        reached.append(active)
    assert reached == [
        *("en", "zh", "reset", "copy", "rule-0", "rule-1", "rule-2"),
        *("surface", "condition_number", "steps", "lr", "momentum", "weight_decay", "nesterov"),
        *("factor", "convert", "correct", "velocity", "drop"),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("language", "size"), [("en", DESKTOP), ("zh", PHONE)])
def test_axe_finds_nothing(visit, scheme, language, size):
    page = visit(
        f"language={language}&rules=torch,keras3,nag&convert=1", size=size, color_scheme=scheme
    )
    page.evaluate((INSTALLED / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8"))
    found = page.evaluate(
        "axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
    )
    assert found == []


def test_the_policy_stops_what_is_not_the_pages_own(browser, address):
    page = browser.new_page()
    page.goto(address)
    failed = page.evaluate("""async () => {
      const script = document.createElement("script");
      script.textContent = "window.broken = true";
      document.body.append(script);
      const asked = await fetch("data:text/plain,x").catch(() => "refused");
      return [window.broken ?? "refused", asked];
    }""")
    page.close()
    assert failed == ["refused", "refused"]
