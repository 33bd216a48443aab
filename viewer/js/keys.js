// The keyboard. We listen before viser does, and what we take it never hears: its own moves by key have one speed for
// all scenes.

const keys = {
  asked: new Set(["Delete", "Control+z", "Control+Shift+z", "Control+y"]), // these go to the server
  actions: { KeyF: () => camera.toggleMode(), KeyR: () => camera.reset() }, // by place on the keyboard
};

{
  const MOVES = {
    KeyW: { forward: 1 },
    KeyS: { forward: -1 },
    KeyD: { right: 1 },
    KeyA: { right: -1 },
    KeyE: { up: 1 },
    KeyQ: { up: -1 },
    ArrowRight: { yaw: 1 },
    ArrowLeft: { yaw: -1 },
    ArrowUp: { pitch: 1 },
    ArrowDown: { pitch: -1 },
  };
  const TURN = (50 * Math.PI) / 180; // radians a second

  const held = new Set();

  const move = whileActive((seconds) => {
    const way = camera.speed * seconds * (held.has("ShiftLeft") || held.has("ShiftRight") ? RUN : 1);
    // In orbit, the arrows say where the camera goes, not where it looks.
    const angle = TURN * seconds * (camera.mode === "orbit" ? -1 : 1);
    const step = { right: 0, up: 0, forward: 0, yaw: 0, pitch: 0 };
    let any = false;
    for (const code of held) {
      for (const [axis, sign] of Object.entries(MOVES[code] ?? {})) {
        step[axis] += sign * (axis === "yaw" || axis === "pitch" ? angle : way);
        any = true;
      }
    }
    camera.step(step);
    return any;
  });

  /** Is somebody typing? */
  function typing(event) {
    const field = event.composedPath()[0];
    return field instanceof HTMLElement && (field.matches("input, textarea, select") || field.isContentEditable);
  }

  /** Is it an arrow that moves what has the focus, such as a slider? */
  function steers(event) {
    return event.code.startsWith("Arrow") && event.composedPath()[0]?.matches?.("[role=slider], [role=tab]");
  }

  /** "Control+Shift+z"; shift is named only where the key alone does not say it, as "?" does. */
  function nameOf(event) {
    const control = event.ctrlKey || event.metaKey;
    const shift = event.shiftKey && (control || event.altKey || event.key.length > 1);
    const key = event.key.length === 1 && (control || event.altKey) ? event.key.toLowerCase() : event.key;
    return `${control ? "Control+" : ""}${event.altKey ? "Alt+" : ""}${shift ? "Shift+" : ""}${key}`;
  }

  function take(event) {
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  window.addEventListener(
    "keydown",
    (event) => {
      if (typing(event) || steers(event)) return;
      if (event.key === "Escape") {
        if (overlay.close() || brush.stop()) take(event);
        return;
      }
      if (event.key === "Shift") held.add(event.code); // others may want to know of it too
      const name = nameOf(event);
      if (keys.asked.has(name)) {
        take(event);
        link.send("key", { key: name });
      } else if (event.ctrlKey || event.metaKey || event.altKey) {
        return; // the browser's
      } else if (event.key === "?") {
        take(event);
        overlay.toggle();
      } else if (event.code in MOVES && camera.pose !== null) {
        take(event);
        held.add(event.code);
        move();
      } else if (event.code in keys.actions) {
        take(event);
        if (!event.repeat) keys.actions[event.code]();
      }
    },
    true,
  );

  window.addEventListener(
    "keyup",
    (event) => {
      if (held.delete(event.code) && event.code in MOVES) event.stopImmediatePropagation();
    },
    true,
  );

  // viser moves the camera all the same, so this is kept from it once the element has had it.
  document.addEventListener("DOMContentLoaded", () => {
    document.body.addEventListener("keydown", (event) => {
      if (steers(event)) event.stopPropagation();
    });
  });

  window.addEventListener("blur", () => held.clear()); // the key comes up elsewhere, unheard
}
