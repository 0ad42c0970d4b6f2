// The surface from above, with the trajectories.

const MAP_MARGIN = { left: 38, right: 10, top: 8, bottom: 24 };
const BANDS = 14;

/** Draw the surface and the runs into an element that is `width` wide. */
function drawMap(place, settings, runs, width) {
  const height = Math.round(Math.min(Math.max(width * 0.46, 240), 400));
  const surface = surfaceNamed(settings.surface);
  const [left, right, bottom, top] = surface.bounds;
  const x = linear([left, right], [MAP_MARGIN.left, width - MAP_MARGIN.right]);
  const y = linear([bottom, top], [height - MAP_MARGIN.bottom, MAP_MARGIN.top]);
  const frame = {
    x: MAP_MARGIN.left,
    y: MAP_MARGIN.top,
    width: width - MAP_MARGIN.left - MAP_MARGIN.right,
    height: height - MAP_MARGIN.top - MAP_MARGIN.bottom,
  };
  const picture = svg("svg", {
    width,
    height,
    role: "img",
    "aria-label": say(settings.language, "map_label"),
  });
  const clip = svg("clipPath", { id: "map-frame" }, svg("rect", frame));
  const inside = svg("g", { "clip-path": "url(#map-frame)" });
  const at = (point) => [x(point[0]), y(point[1])];
  inside.append(cross(at(surface.minimum)));
  runs.forEach((run, i) => inside.append(runLine(i, run.points.slice(0, run.finite).map(at))));
  runs.forEach((run, i) => inside.append(...marks(run, i, settings, at)));
  inside.append(
    svg("circle", { class: "start", cx: x(surface.start[0]), cy: y(surface.start[1]), r: 5 }),
  );
  picture.append(clip, inside, ...mapAxes(surface.bounds, x, y, frame));
  place.replaceChildren(bandsOf(settings, surface, frame), picture);
}

/** Return the marks of a run: a ring at the drop, a dot at the end. */
function marks(run, index, settings, at) {
  const found = [];
  const circle = (kind, point, r) => {
    const [cx, cy] = at(point);
    found.push(svg("circle", { class: `${kind} mark-${index}`, cx, cy, r }));
  };
  if (settings.drop < settings.steps && settings.drop < run.finite) {
    circle("ring", run.points[settings.drop], 6.5 - index);
  }
  if (run.finite > settings.steps) circle("dot", run.points.at(-1), 5 - index);
  return found;
}

function cross([x, y]) {
  return svg("path", { class: "minimum", d: `M${x - 6} ${y}H${x + 6}M${x} ${y - 6}V${y + 6}` });
}

function mapAxes([left, right, bottom, top], x, y, frame) {
  const foot = frame.y + frame.height;
  return [
    svg("rect", { class: "frame", ...frame }),
    ...linearTicks([left, right], 6).map((tick) =>
      svg(
        "text",
        { class: "tick", x: x(tick), y: foot + 16, "text-anchor": "middle" },
        signed(tick),
      ),
    ),
    ...linearTicks([bottom, top], 4).map((tick) =>
      svg(
        "text",
        { class: "tick", x: frame.x - 7, y: y(tick) + 4, "text-anchor": "end" },
        signed(tick),
      ),
    ),
  ];
}

const signed = (value) => String(value).replace("-", "−");

let lastBands = { key: "", canvas: null };

/** Return the surface in bands of equal area; drawn again only when it has changed. */
function bandsOf(settings, surface, frame) {
  const shape = surface.parameters.map((parameter) => settings[parameter.name]);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ratio = Math.min(devicePixelRatio, 1.5);
  const key = [surface.name, shape, frame.width, frame.height, dark, ratio].join();
  if (lastBands.key !== key) {
    lastBands = {
      key,
      canvas: paintBands((x, y) => surface.value(x, y, ...shape), surface.bounds, frame, ratio),
    };
  }
  return lastBands.canvas;
}

function paintBands(height, [left, right, bottom, top], frame, ratio) {
  const canvas = document.createElement("canvas");
  const [columns, rows] = [frame.width, frame.height].map((length) => Math.round(length * ratio));
  Object.assign(canvas, { width: columns, height: rows, ariaHidden: "true" });
  Object.assign(canvas.style, {
    left: `${frame.x}px`,
    top: `${frame.y}px`,
    width: `${frame.width}px`,
    height: `${frame.height}px`,
  });
  const heights = new Float64Array(columns * rows);
  for (let j = 0, k = 0; j < rows; j += 1) {
    const y = top + ((bottom - top) * (j + 0.5)) / rows;
    for (let i = 0; i < columns; i += 1, k += 1) {
      heights[k] = height(left + ((right - left) * (i + 0.5)) / columns, y);
    }
  }
  const levels = levelsOf(heights);
  const image = new ImageData(columns, rows);
  paint(
    new Uint32Array(image.data.buffer),
    bandOf(heights, levels),
    tintsOf(levels.length + 1),
    columns,
    ratio,
  );
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Return the band of each height. Neighbours are near each other: the search begins at the last. */
function bandOf(heights, levels) {
  const band = new Uint8Array(heights.length);
  for (let k = 0, own = 0; k < heights.length; k += 1) {
    while (own < levels.length && heights[k] >= levels[own]) own += 1;
    while (own > 0 && heights[k] < levels[own - 1]) own -= 1;
    band[k] = own;
  }
  return band;
}

/** Colour each pixel as its band, or as that band's edge. */
function paint(pixels, band, [tints, edges], columns, ratio) {
  const next = Math.round(ratio);
  for (let k = 0; k < band.length; k += 1) {
    const inner = band[k] === band[k + next] && band[k] === (band[k + next * columns] ?? band[k]);
    pixels[k] = (inner ? tints : edges)[band[k]];
  }
}

/** Return the heights that part the picture into bands of equal area, and some nearer the minimum. */
function levelsOf(heights) {
  const sample = heights.filter((_, k) => k % 37 === 0).sort();
  const shares = Array.from({ length: BANDS }, (_, k) => (k + 1) / (BANDS + 1));
  const levels = [1 / 300, 1 / 60, ...shares].map(
    (share) => sample[Math.floor(share * sample.length)],
  );
  return [...new Set(levels)];
}

/** Return the colours of the bands and of their edges, each as one number. */
function tintsOf(count) {
  const style = getComputedStyle(document.documentElement);
  const [low, high, line] = ["--low", "--high", "--contour"].map((name) =>
    style
      .getPropertyValue(name)
      .match(/[0-9a-f]{2}/gi)
      .map((part) => parseInt(part, 16)),
  );
  const mix = (a, b, share) => a.map((value, k) => Math.round(value + (b[k] - value) * share));
  const packed = (colour) => new Uint32Array(new Uint8ClampedArray([...colour, 255]).buffer)[0];
  const tints = Array.from({ length: count }, (_, k) => mix(low, high, k / (count - 1)));
  return [tints.map(packed), tints.map((tint) => packed(mix(tint, line, 0.35)))];
}
