// The settings: what they can be, and the link that holds them.

const MANTISSAS = [
  1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9,
];

/** Round off what binary fractions add. */
const plain = (value) => Number(value.toPrecision(12));

/** Return round numbers from `low` to `high`, evenly spread over the decades. */
function decades(low, high) {
  const stops = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const mantissa of MANTISSAS) stops.push(plain(mantissa * 10 ** power));
  }
  return stops.filter((stop) => stop >= low && stop <= high);
}

/** Return the numbers from `low` to `high` by equal steps. */
function evenly(low, high, step) {
  const count = Math.round((high - low) / step);
  return Array.from({ length: count + 1 }, (_, i) => plain(low + i * step));
}

const CONDITION = SURFACES.flatMap((surface) => surface.parameters)[0];

// Where each slider stops, in its order of appearance.
const STOPS = {
  condition_number: decades(CONDITION.low, CONDITION.high),
  steps: evenly(20, 400, 10),
  lr: decades(1e-5, 3),
  momentum: [...evenly(0, 0.89, 0.01), ...evenly(0.9, 0.995, 0.005)],
  weight_decay: [0, ...decades(1e-5, 0.1)],
  factor: decades(0.01, 1),
};
const SWITCHES = ["nesterov", "convert", "correct"];
const VELOCITIES = ["move", "buffer"];
const LANGUAGES = ["en", "zh"];

const DEFAULTS = {
  rules: ["torch", "caffe"],
  surface: "quadratic",
  condition_number: CONDITION.default,
  steps: 120,
  lr: SURFACES[0].lr,
  momentum: 0.9,
  weight_decay: 0,
  drop: 40,
  factor: 0.1,
  nesterov: false,
  convert: false,
  correct: false,
  velocity: "move",
};

const surfaceNamed = (name) => SURFACES.find((surface) => surface.name === name);
const conventionNamed = (name) => CONVENTIONS.find((row) => row.name === name);
const preferredLanguage = () => (navigator.language.startsWith("zh") ? "zh" : "en");

/** Return the settings of a link's fragment; what it does not say, or says wrongly, is usual. */
function settingsOf(fragment) {
  const said = new URLSearchParams(fragment.replace(/^#/, ""));
  const settings = { ...DEFAULTS, language: preferredLanguage() };
  const among = (key, choices) => {
    if (choices.includes(said.get(key))) settings[key] = said.get(key);
  };
  among(
    "surface",
    SURFACES.map((surface) => surface.name),
  );
  among("velocity", VELOCITIES);
  among("language", LANGUAGES);
  settings.lr = surfaceNamed(settings.surface).lr;
  for (const [key, stops] of Object.entries(STOPS)) {
    const value = Number(said.get(key) || NaN);
    if (value >= stops[0] && value <= stops.at(-1)) settings[key] = value;
  }
  for (const key of SWITCHES) if (said.has(key)) settings[key] = said.get(key) === "1";
  const rules = (said.get("rules") ?? "").split(",").filter(conventionNamed).slice(0, 3);
  if (rules.length >= 2) settings.rules = rules;
  settings.steps = Math.round(settings.steps);
  const drop = Number(said.get("drop") || NaN);
  if (Number.isFinite(drop)) settings.drop = Math.max(Math.round(drop), 1);
  settings.drop = Math.min(settings.drop, settings.steps);
  return settings;
}

/** Return the fragment of a link that restores the settings. */
function fragmentOf(settings) {
  const said = new URLSearchParams();
  for (const [key, value] of Object.entries(settings)) {
    said.set(key, typeof value === "boolean" ? Number(value) : value);
  }
  return `#${said.toString().replaceAll("%2C", ",")}`;
}
