// Under each convention: its code, its equations, its numbers, and what they say.

const GROWN = 100; // times the loss at the start
const SAME = 1e-9; // of the first's greatest distance from the minimum

/** Return the line that makes the convention's optimizer in Python. */
function codeOf(settings, rule) {
  const parts = [`lr=${literal(settings.lr)}`, `momentum=${literal(settings.momentum)}`];
  if (settings.weight_decay > 0) parts.push(`weight_decay=${literal(settings.weight_decay)}`);
  if (rule.nesterov) parts.push("nesterov=True");
  parts.push(`convention="${rule.row.name}"`);
  if (rule.corrected) parts.push("correct_momentum=True");
  if (rule.row.hasNu) parts.push(`nu=${NU}`);
  return `sgdm.SGD(params, ${parts.join(", ")})`;
}

/** Return what Python does at the drop. */
function dropCodeOf(settings, run) {
  const { drop, language, rules, steps } = settings;
  if (drop >= steps) return "";
  const { row, corrected } = run.rule;
  const lr = literal(lrAt(settings, drop));
  const words = { t: drop, first: rules[0], rule: row.name };
  const said = say(language, run.map ? "at_step_converted" : "at_step", words);
  const options = `${corrected ? "correct_momentum=True, " : ""}lr=${lr}`;
  const conversion = run.map ? [`sgdm.convert_(optimizer, to="${row.name}", ${options})`] : [];
  return [`# ${said}`, ...conversion, `optimizer.param_groups[0]["lr"] = ${lr}`].join("\n");
}

/** Say how a run went, beside the first. */
function verdictOf(settings, runs, index) {
  const { language, drop } = settings;
  const [run, [first]] = [runs[index], runs];
  if (run.finite <= settings.steps) return say(language, "verdict.unstable", { t: run.finite });
  const [from, to] = [run.loss[0], run.loss.at(-1)];
  if (to > GROWN * from) {
    return say(language, "verdict.grows", {
      from: written(language, from),
      to: written(language, to),
    });
  }
  if (index === 0) return say(language, "verdict.first");
  const { minimum } = surfaceNamed(settings.surface);
  const farthest = first.points
    .slice(0, first.finite)
    .map((point) => distance(point, minimum))
    .reduce((a, b) => Math.max(a, b));
  const same = SAME * farthest;
  const widest = (gaps) => gaps.filter((gap) => gap > same).reduce((a, b) => Math.max(a, b), 0);
  const [before, after] = [widest(run.gap.slice(0, drop)), widest(run.gap.slice(drop))];
  const words = { first: first.rule.row.name, gap: written(language, Math.max(before, after)) };
  if (!before && !after) return say(language, "verdict.same", words);
  if (!before) return say(language, "verdict.parts", words);
  return say(language, run.map && !after ? "verdict.joins" : "verdict.other", words);
}

/** Say what of the switches did not apply to a run, or how it was converted. */
function remarksOf(settings, runs, index) {
  const { language } = settings;
  const { map, rule } = runs[index];
  const remarks = [];
  if (settings.convert && index && settings.drop < settings.steps && settings.momentum > 0) {
    const words = { first: settings.rules[0], map: map && mapText(map) };
    remarks.push(say(language, map ? "converted" : "not_convertible", words));
  }
  if (settings.correct && !rule.corrected) remarks.push(say(language, "not_correctable"));
  return remarks;
}

/** Write b's map as a sum: 0.05·b + 2·Θ. */
function mapText([u, s]) {
  const weight = (value) => literal(Number(value.toPrecision(4))).replace("-", "−");
  const buffer = s === 1 ? "b" : `${weight(s)}·b`;
  return u === 0 ? buffer : `${buffer} + ${weight(u)}·Θ`;
}

/** Return the numbers of a run after its last step, with their words. */
function numbersOf(settings, runs, index) {
  const { language } = settings;
  const last = (series) => written(language, runs[index][series].at(-1));
  const numbers = [
    ["end_loss", last("loss")],
    ["end_velocity", last(settings.velocity)],
  ];
  if (index) numbers.push(["end_gap", last("gap")]);
  return numbers.map(([key, text]) => [say(language, key, { first: settings.rules[0] }), text]);
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Draw a card for each run. */
function drawCards(place, settings, runs) {
  const { language } = settings;
  place.replaceChildren(
    ...runs.map((run, i) => {
      const { row } = run.rule;
      const dropped = dropCodeOf(settings, run);
      return element(
        "article",
        { class: `card card-${i}`, "aria-labelledby": `card-${i}` },
        element("h3", { id: `card-${i}` }, swatch(i), row.name),
        element("p", { class: "row-title", lang: "en" }, row.title),
        element("p", { class: "verdict" }, verdictOf(settings, runs, i)),
        ...remarksOf(settings, runs, i).map((remark) => element("p", { class: "remark" }, remark)),
        element("h4", {}, say(language, "after", { t: settings.steps })),
        element(
          "dl",
          {},
          ...numbersOf(settings, runs, i).map(([term, text]) =>
            element("div", {}, element("dt", {}, term), element("dd", {}, text)),
          ),
        ),
        element("h4", {}, say(language, "code")),
        code(codeOf(settings, run.rule), "constructor"),
        ...(dropped ? [code(dropped, "at-drop")] : []),
        element("h4", {}, say(language, "equations")),
        code(run.rule.equations.join("\n"), "equations"),
      );
    }),
  );
}

const code = (text, kind) => element("pre", { class: kind }, element("code", {}, text));

/** Return the line of a run as its sign, as it is drawn. */
function swatch(index) {
  const sign = svg("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" });
  sign.append(
    runLine(index, [
      [1, 5],
      [25, 5],
    ]),
  );
  return sign;
}

/** Return the results in words, for those who hear them. */
function announcementOf(settings, runs) {
  const { language } = settings;
  return runs
    .map((run) =>
      say(language, "announcement", {
        rule: run.rule.row.name,
        loss: written(language, run.loss.at(-1)),
        gap: written(language, run.gap.at(-1)),
      }),
    )
    .join(" ");
}
