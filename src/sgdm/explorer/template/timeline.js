// The panels over the steps: learning rate, loss, velocity, gap.

const MARGIN = { left: 46, right: 14 };
const ROOF = 1e4; // times the beginning: where what diverges leaves the picture
const PANEL = { lr: 58, other: 92, title: 24, foot: 40 };

/** Return what each panel shows: its words, the lines of its runs, and the ends of its axis. */
function panelsOf(settings, runs) {
  const lrs = Array.from({ length: settings.steps + 1 }, (_, t) => lrAt(settings, t));
  const moved = settings.velocity;
  return [
    {
      key: settings.drop < settings.steps ? "panel.lr" : "panel.lr.constant",
      height: PANEL.lr,
      ends: lrEnds(lrs),
      lines: [lrs],
      own: true,
    },
    runPanel(runs, "panel.loss", "loss"),
    runPanel(runs, `panel.velocity.${moved}`, moved),
    gapPanel(runs),
  ];
}

/** A panel of a series of every run. Where that is 0, it has no place on the axis. */
function runPanel(runs, key, series) {
  const lines = runs.map((run) => run[series].slice(0, run.finite));
  const begun = lines.map((line) => line.find((value) => value > 0) ?? 0);
  const ends = decadesAround(lines.flat(), 16, ROOF * Math.max(...begun));
  return {
    key,
    height: PANEL.other,
    ends,
    lines: lines.map((line) => line.map((value) => value || NaN)),
  };
}

/** The panel of the gaps. No gap is a line along its foot. */
function gapPanel(runs) {
  const lines = runs.map((run, i) => (i ? run.gap.slice(0, run.finite) : []));
  const [, top] = decadesAround(lines.flat(), 16, ROOF);
  return { key: "panel.gap", height: PANEL.other, ends: [1e-16, Math.max(top, 1)], lines };
}

function lrEnds(lrs) {
  return [Math.min(...lrs) / 1.6, Math.max(...lrs) * 1.6];
}

/** Return the scale from steps to places, for a picture that is `width` wide. */
function timeScale(settings, width) {
  return linear([0, settings.steps], [MARGIN.left, width - MARGIN.right]);
}

/** Draw the panels below each other into an element that is `width` wide. */
function drawTimeline(place, settings, runs, width) {
  const { language } = settings;
  const x = timeScale(settings, width);
  const picture = svg("svg", { width, role: "img", "aria-label": say(language, "timeline_label") });
  let top = 0;
  for (const panel of panelsOf(settings, runs)) {
    const title = say(language, panel.key, { ...dropWords(settings), first: settings.rules[0] });
    picture.append(svg("text", { class: "title", x: MARGIN.left, y: top + 16 }, title));
    const frame = {
      x: MARGIN.left,
      y: top + PANEL.title,
      width: width - MARGIN.left - MARGIN.right,
      height: panel.height,
    };
    drawPanel(picture, panel, frame, x);
    top += PANEL.title + panel.height + 8;
  }
  for (const tick of linearTicks([0, settings.steps], width < 500 ? 4 : 8)) {
    picture.append(
      svg("text", { class: "tick", x: x(tick), y: top + 9, "text-anchor": "middle" }, String(tick)),
    );
  }
  picture.append(
    svg(
      "text",
      { class: "tick", x: width - MARGIN.right, y: top + 27, "text-anchor": "end" },
      say(language, "panel.step"),
    ),
  );
  picture.setAttribute("height", top + PANEL.foot);
  place.querySelector("svg")?.remove();
  place.prepend(picture);
  return top;
}

function drawPanel(picture, panel, frame, x) {
  const foot = frame.y + frame.height;
  const y = logarithmic(panel.ends, [foot, frame.y]);
  const name = `clip-${panel.key}`;
  picture.append(
    svg(
      "clipPath",
      { id: name },
      svg("rect", { ...frame, y: frame.y - 2, height: frame.height + 4 }),
    ),
    svg("rect", { class: "frame", ...frame }),
  );
  for (const tick of panel.own ? lrTicks(panel.lines[0]) : decadeTicks(panel.ends)) {
    const label = panel.own ? [String(tick)] : decadeLabel(tick);
    picture.append(
      svg("line", {
        class: "grid",
        x1: frame.x,
        x2: frame.x + frame.width,
        y1: y(tick),
        y2: y(tick),
      }),
      svg(
        "text",
        { class: "tick", x: frame.x - 7, y: y(tick) + 4, "text-anchor": "end" },
        ...label,
      ),
    );
  }
  const inside = svg("g", { "clip-path": `url(#${name})` });
  panel.lines.forEach((line, i) => {
    const places = line.map((value, t) => (Number.isFinite(value) ? [x(t), y(value)] : null));
    inside.append(
      panel.own ? svg("path", { class: "rate", d: stairs(places) }) : runLine(i, places),
    );
  });
  picture.append(inside);
}

const lrTicks = (lrs) => [...new Set([lrs[0], lrs.at(-1)])];

/** Return the d of a line that holds each value until the next. */
function stairs(places) {
  return lineThrough(
    places.flatMap((place, t) => (t ? [[place[0], places[t - 1][1]], place] : [place])),
  );
}
