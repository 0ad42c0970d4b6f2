// The runs. A rule is a function that returns its step as a linear map of (Θ, b), generated from
// sgdm.recurrence by way of sgdm.system; Θ is where the gradient is taken, b the buffer.

/** Return ε of step t. */
function lrAt(settings, t) {
  return t < settings.drop ? settings.lr : plain(settings.lr * settings.factor);
}

/** Return a convention's rule under the switches: its steps, its equations, what applies to it. */
function ruleOf(row, settings) {
  const corrected = settings.correct && "corrected" in row.variants;
  const asked = settings.nesterov && !(row.nesterovNeedsMomentum && settings.momentum === 0);
  const nesterov = asked && "nesterov" in row.variants;
  const name = [corrected && "corrected", nesterov && "nesterov"].filter(Boolean).join(" ");
  const [later, first, still, decaying] = row.variants[name];
  return {
    row,
    corrected,
    nesterov,
    equations: EQUATIONS[settings.weight_decay > 0 ? decaying : still],
    step: (t) => {
      const { momentum, weight_decay, lr } = settings;
      const step = STEPS[t === 0 ? first : later];
      return step(lrAt(settings, t), lrAt(settings, t + 1), momentum, weight_decay, lr, NU);
    },
  };
}

/** Whether two steps, taken for ever, are one rule in two coordinates. */
function alike(step, other, scale) {
  const [a, b] = [behaviourOf(step), behaviourOf(other)];
  return a.every(
    (x, i) => Math.abs(x - b[i]) <= 1e-12 * Math.max(Math.abs(x), Math.abs(b[i]), scale),
  );
}

/** Return the map [u, s] from the first's state to another's before step t: b = u*Θ + s*b. */
function mapAt(first, other, t, settings) {
  const [from, to] = [first.step(t), other.step(t)];
  const seen = from[1] !== 0 && to[1] !== 0;
  return seen && alike(from, to, lrAt(settings, t)) ? stateMap(from, to) : null;
}

/** Run every convention side by side; entry t of a series is the state before step t. */
function simulate(settings) {
  const surface = surfaceNamed(settings.surface);
  const shape = surface.parameters.map((parameter) => settings[parameter.name]);
  const lowest = surface.value(...surface.minimum, ...shape);
  const runs = settings.rules.map((name) => {
    const rule = ruleOf(conventionNamed(name), settings);
    const series = { points: [], loss: [], move: [], buffer: [], gap: [] };
    return { rule, map: null, ...series, theta: [...surface.start], b: [0, 0], moved: 0 };
  });
  const [first] = runs;
  for (let t = 0; t <= settings.steps; t += 1) {
    if (settings.convert && t === settings.drop && t < settings.steps) {
      for (const run of runs.slice(1)) takeOver(first, run, t, settings);
    }
    for (const run of runs) record(run, first, (x, y) => surface.value(x, y, ...shape) - lowest);
    for (const run of runs) advance(run, surface.gradient(...run.theta, ...shape), t);
  }
  for (const run of runs) {
    const broken = run.points.findIndex((point) => !point.every(Number.isFinite));
    run.finite = broken < 0 ? run.points.length : broken; // how many points are numbers
  }
  return runs;
}

/** Let a run go on from the first's state, converted, if both are one rule. */
function takeOver(first, run, t, settings) {
  run.map = mapAt(first.rule, run.rule, t, settings);
  if (!run.map) return;
  const [u, s] = run.map;
  run.theta = [...first.theta];
  run.b = first.b.map((b, i) => u * first.theta[i] + s * b);
}

/** Add a run's state to its series. */
function record(run, first, height) {
  run.points.push(run.theta);
  run.loss.push(height(...run.theta));
  run.move.push(run.moved);
  run.buffer.push(Math.hypot(...run.b));
  run.gap.push(distance(run.theta, first.theta));
}

/** Take one step. */
function advance(run, gradient, t) {
  const [a11, a12, a21, a22, b1, b2] = run.rule.step(t);
  const { theta, b } = run;
  run.theta = theta.map((p, i) => a11 * p + a12 * b[i] + b1 * gradient[i]);
  run.moved = distance(run.theta, theta);
  run.b = theta.map((p, i) => a21 * p + a22 * b[i] + b2 * gradient[i]);
}

/** Return the distance of two points. */
const distance = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);
