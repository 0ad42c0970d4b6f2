// Drawing: SVG elements, scales and their ticks.

/** Make an SVG element with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Return the map from [low, high] onto [start, end]; far outside it stays at a place that can be drawn. */
function linear([low, high], [start, end]) {
  const far = 4 * Math.abs(end - start);
  const slope = (end - start) / (high - low);
  return (value) => {
    const place = start + (value - low) * slope;
    return Math.min(Math.max(place, Math.min(start, end) - far), Math.max(start, end) + far);
  };
}

/** The same by decades; what is below the lowest, 0 too, lies on the edge. */
function logarithmic([low, high], ends) {
  const scale = linear([Math.log10(low), Math.log10(high)], ends);
  return (value) => scale(Math.log10(Math.max(value, low)));
}

/** Return whole decades around the values, at most `most` of them, from the highest down. */
function decadesAround(values, most, ceiling = Infinity) {
  const positive = values.filter((value) => value > 0 && Number.isFinite(value));
  if (!positive.length) return [1e-16, 1];
  const lowest = positive.reduce((a, b) => Math.min(a, b));
  const highest = positive.reduce((a, b) => Math.max(a, b));
  const top = Math.ceil(Math.log10(Math.min(highest, ceiling)) + 1e-9);
  const bottom = Math.min(Math.max(Math.floor(Math.log10(lowest)), top - most), top - 1);
  return [10 ** bottom, 10 ** top];
}

/** Return the powers of ten to label, some four. */
function decadeTicks([low, high]) {
  const [first, last] = [low, high].map((end) => Math.round(Math.log10(end)));
  const every = Math.max(1, Math.ceil((last - first) / 4));
  const ticks = [];
  for (let power = last; power >= first; power -= every) ticks.push(10 ** power);
  return ticks;
}

/** Return round numbers to label, some `count`. */
function linearTicks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(plain(tick));
  return ticks;
}

/** Write a power of ten: as it is while that is short, else with an exponent. */
function decadeLabel(value) {
  const power = Math.round(Math.log10(value));
  if (Math.abs(power) <= 2) return [String(plain(value))];
  return [
    "10",
    svg("tspan", { dy: "-0.45em", "font-size": "0.78em" }, String(power).replace("-", "−")),
  ];
}

/** Return the d of a line through places; it lifts where there is none. */
function lineThrough(places) {
  let pen = "M";
  return places
    .map((place) => {
      if (!place) {
        pen = "M";
        return "";
      }
      const part = `${pen}${place[0].toFixed(2)} ${place[1].toFixed(2)}`;
      pen = "L";
      return part;
    })
    .join("");
}

/** Return a line of a run; later ones are thinner and dashed, so that equal ones are all seen. */
function runLine(index, places) {
  return svg("path", { class: `run run-${index}`, d: lineThrough(places) });
}
