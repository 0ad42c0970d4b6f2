// What is said, in the language of the page.

/** Return a text in a language, with {names} filled in. */
function say(language, key, values = {}) {
  return WORDS[key][language].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Write a number of the results: four digits, or that it is none. */
function written(language, value) {
  if (!Number.isFinite(value)) return say(language, "not_finite");
  if (value === 0) return "0";
  const size = Math.abs(value);
  const digits = size < 1e-3 || size >= 1e5 ? value.toExponential(2) : value.toPrecision(4);
  return digits.replace("-", "−").replace("e+", "e");
}

/** Write a setting as Python reads it. */
function literal(value) {
  return String(value).replace("e+", "e");
}
