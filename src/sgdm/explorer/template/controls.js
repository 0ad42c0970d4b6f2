// The controls. Each knows how to show the settings; `change` is called with what is to be other.

const PLACES = {
  rules: ["first", "second", "third"],
  problem: ["condition_number", "steps"],
  hyperparameters: ["lr", "momentum", "weight_decay"],
  "at-the-drop": ["factor"],
};

/** Make every control in its fieldset; return the functions that show the settings in them. */
function makeControls(settings, change) {
  const [rules, problem, hyperparameters, drop] = Object.keys(PLACES).map((id) =>
    document.getElementById(id),
  );
  const shows = PLACES.rules.map((word, i) => ruleSelect(rules, word, i, settings, change));
  shows.push(
    choice(
      problem,
      "surface",
      SURFACES.map((surface) => surface.name),
      (name) => change({ surface: name, lr: surfaceNamed(name).lr }),
    ),
  );
  for (const key of PLACES.problem) shows.push(slider(problem, key, change));
  for (const key of PLACES.hyperparameters) shows.push(slider(hyperparameters, key, change));
  shows.push(toggle(hyperparameters, "nesterov", change));
  for (const key of PLACES["at-the-drop"]) shows.push(slider(drop, key, change));
  shows.push(
    toggle(drop, "convert", change, "convert_hint"),
    toggle(drop, "correct", change, "correct_hint"),
  );
  shows.push(
    choice(document.getElementById("view"), "velocity", VELOCITIES, (velocity) =>
      change({ velocity }),
    ),
  );
  return shows;
}

/** Make the select of a convention. The third may be none. */
function ruleSelect(place, word, index, settings, change) {
  const id = `rule-${index}`;
  const names = CONVENTIONS.map((row) => row.name);
  const select = element("select", { id });
  const none = element("option", { value: "" });
  select.append(
    ...(index === 2 ? [none] : []),
    ...names.map((name) => element("option", { value: name }, name)),
  );
  const label = element("label", { for: id });
  place.append(element("div", { class: "rule" }, label, select));
  select.addEventListener("change", () => {
    const chosen = [...settings().rules];
    chosen[index] = select.value;
    change({ rules: chosen.filter(Boolean) });
  });
  return ({ language, rules }) => {
    label.replaceChildren(swatch(index), say(language, word));
    none.textContent = say(language, "none");
    select.value = rules[index] ?? "";
  };
}

/** Make a select among names whose words are "key.name". */
function choice(place, key, names, choose) {
  const select = element("select", { id: key });
  const options = names.map((name) => element("option", { value: name }));
  const label = element("label", { for: key });
  select.append(...options);
  select.addEventListener("change", () => choose(select.value));
  place.append(element("div", { class: "choice" }, label, select));
  return (settings) => {
    label.textContent = say(settings.language, key);
    for (const option of options)
      option.textContent = say(settings.language, `${key}.${option.value}`);
    select.value = settings[key];
  };
}

/** Make a slider over the stops of a setting. */
function slider(place, key, change) {
  const stops = STOPS[key];
  const input = element("input", {
    id: key,
    type: "range",
    min: 0,
    max: stops.length - 1,
    step: 1,
  });
  const label = element("label", { for: key });
  const output = element("output", { for: key, "aria-live": "off" }); // the slider says it
  const row = element("div", { class: "slider" }, label, output, input);
  input.addEventListener("input", () => change({ [key]: stops[input.valueAsNumber] }));
  place.append(row);
  return (settings) => {
    const value = settings[key];
    const nearest = stops.reduce(
      (best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best),
      0,
    );
    label.textContent = say(settings.language, key);
    output.textContent = literal(value);
    input.value = nearest;
    input.setAttribute("aria-valuetext", literal(value));
    const { parameters } = surfaceNamed(settings.surface);
    row.hidden = key === CONDITION.name && !parameters.some((parameter) => parameter.name === key);
  };
}

/** Make a switch, with a line on what it does. */
function toggle(place, key, change, hint = "") {
  const input = element("input", { id: key, type: "checkbox", role: "switch" });
  const label = element("label", { for: key });
  input.addEventListener("change", () => change({ [key]: input.checked }));
  place.append(element("div", { class: "switch" }, input, label));
  const line = element("p", { class: "hint", id: `${key}-hint` });
  if (hint) {
    place.append(line);
    input.setAttribute("aria-describedby", line.id);
  }
  return (settings) => {
    label.textContent = say(settings.language, key);
    if (hint) line.textContent = say(settings.language, hint);
    input.checked = settings[key];
  };
}
