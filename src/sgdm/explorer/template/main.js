// The page: one record of settings; every change of it draws everything once.

const find = (selector) => document.querySelector(selector);
let settings = settingsOf(location.hash);
let runs = [];
let asked = 0;
let saving = 0;

/** Take new settings over, and draw with the next frame. */
function change(other) {
  settings = { ...settings, ...other };
  settings.drop = Math.min(settings.drop, settings.steps);
  redraw();
  clearTimeout(saving);
  saving = setTimeout(settled, 300);
}

function redraw() {
  asked ||= requestAnimationFrame(draw);
}

const current = () => settings;
const shows = makeControls(current, change);
const handle = makeHandle(find("#timeline .panels"), current, (drop) => change({ drop }));

function draw() {
  asked = 0;
  speak();
  for (const show of shows) show(settings);
  runs = simulate(settings);
  const [map, panels] = [find("#map .canvas"), find("#timeline .panels")];
  drawMap(map, settings, runs, map.clientWidth);
  const height = drawTimeline(panels, settings, runs, panels.clientWidth);
  placeHandle(handle, settings, panels.clientWidth, height);
  drawCards(find("#cards .row"), settings, runs);
  find(".legend").replaceChildren(
    ...runs.map((run, i) => element("span", {}, swatch(i), run.rule.row.name)),
  );
}

/** Say everything that stands in the page itself in its language. */
function speak() {
  const { language } = settings;
  document.documentElement.lang = language;
  document.title = `${say(language, "title")} · sgdm`;
  for (const item of document.querySelectorAll("[data-words]"))
    item.textContent = say(language, item.dataset.words);
  for (const item of document.querySelectorAll("[data-label]"))
    item.setAttribute("aria-label", say(language, item.dataset.label));
  for (const item of document.querySelectorAll("[data-language]")) {
    item.setAttribute("aria-pressed", item.dataset.language === language);
  }
  find("#about").textContent = say(language, "about", { version: VERSION });
}

/** Once the settings rest: keep them in the address, and say the results. */
function settled() {
  history.replaceState(null, "", fragmentOf(settings));
  find("#announcement").textContent = announcementOf(settings, runs);
}

/** Copy the link, or show it where copying is not allowed. */
async function copyLink() {
  settled();
  const [button, field] = [find("#copy"), find("#link")];
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = say(settings.language, "copied");
    find("#announcement").textContent = say(settings.language, "copied");
    setTimeout(() => {
      button.textContent = say(settings.language, "copy");
    }, 1500);
  } catch {
    field.value = location.href;
    field.hidden = false;
    field.select();
  }
}

find(".controls").addEventListener("submit", (event) => event.preventDefault());
find("#reset").addEventListener("click", () =>
  change(settingsOf(`#language=${settings.language}`)),
);
find("#copy").addEventListener("click", copyLink);
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => change({ language: button.dataset.language }));
}
addEventListener("hashchange", () => change(settingsOf(location.hash)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(redraw).observe(find("#map .canvas"));
draw();
