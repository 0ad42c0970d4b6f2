// The drop of the learning rate: a handle that is dragged along the panels.

/** Return what there is to say of the drop. */
function dropWords(settings) {
  const [from, to] = [0, settings.drop].map((t) => literal(lrAt(settings, t)));
  return { t: settings.drop, from, to };
}

/** Put the handle where the drop is. */
function placeHandle(handle, settings, width, height) {
  const { language, drop, steps } = settings;
  const text = say(language, drop < steps ? "drop_at" : "drop_never", dropWords(settings));
  handle.style.left = `${timeScale(settings, width)(drop)}px`;
  handle.style.height = `${height}px`;
  handle.setAttribute("aria-label", say(language, "drop"));
  handle.setAttribute("aria-valuemin", 1);
  handle.setAttribute("aria-valuemax", steps);
  handle.setAttribute("aria-valuenow", drop);
  handle.setAttribute("aria-valuetext", text);
}

/** Make the handle: dragged by mouse, pen or finger, or moved by keys. `move` gets the new step. */
function makeHandle(place, settings, move) {
  const handle = document.createElement("div");
  handle.id = "drop";
  handle.tabIndex = 0;
  handle.setAttribute("role", "slider");
  handle.setAttribute("aria-orientation", "horizontal");
  const grip = document.createElement("span");
  grip.className = "grip";
  grip.textContent = "‹ ›";
  handle.append(grip);
  const to = (step) => move(Math.min(Math.max(Math.round(step), 1), settings().steps));
  const follow = (event) => {
    const { left, width } = place.getBoundingClientRect();
    const share = (event.clientX - left - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    to(share * settings().steps);
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) follow(event);
  });
  handle.addEventListener("keydown", (event) => {
    const { drop, steps } = settings();
    const places = {
      ArrowLeft: drop - 1,
      ArrowDown: drop - 1,
      ArrowRight: drop + 1,
      ArrowUp: drop + 1,
      PageDown: drop - 10,
      PageUp: drop + 10,
      Home: 1,
      End: steps,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    to(places[event.key]);
  });
  place.append(handle);
  return handle;
}
