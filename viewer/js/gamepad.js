// Gamepads of the standard mapping (https://www.w3.org/TR/gamepad/#remapping). Asked before each repaint, but only while
// one is connected.

{
  const DEAD = 0.15; // sticks do not come to rest at zero
  const TURN = (110 * Math.PI) / 180; // radians a second
  const SPEED_STEP = 1.25;

  /** 0 within the dead zone, 1 at the rim, squared between so that small moves are fine. */
  function response(value = 0) {
    const beyond = Math.max(0, Math.abs(value) - DEAD) / (1 - DEAD);
    return Math.sign(value) * Math.min(1, beyond) ** 2;
  }

  const ON_PRESS = {
    0: () => camera.reset(), // A, cross
    1: () => camera.toggleMode(), // B, circle
    3: () => overlay.toggle(), // Y, triangle
    4: () => camera.changeSpeed(1 / SPEED_STEP), // left shoulder
    5: () => camera.changeSpeed(SPEED_STEP), // right shoulder
  };
  const pressed = new Set(); // "index of the pad, of the button"

  const poll = whileActive((seconds) => {
    const pads = Array.from(navigator.getGamepads()).filter((pad) => pad?.connected && pad.mapping === "standard");
    for (const pad of pads) {
      const run = pad.buttons[10]?.pressed ? RUN : 1; // the left stick pushed in
      const way = camera.speed * seconds * run;
      const angle = TURN * seconds * (camera.mode === "orbit" ? -1 : 1);
      camera.step({
        right: way * response(pad.axes[0]),
        forward: -way * response(pad.axes[1]),
        up: way * (response(pad.buttons[7]?.value) - response(pad.buttons[6]?.value)), // triggers
        yaw: angle * response(pad.axes[2]),
        pitch: -angle * response(pad.axes[3]),
      });
      for (const [button, action] of Object.entries(ON_PRESS)) {
        const name = `${pad.index},${button}`;
        if (!pad.buttons[button]?.pressed) pressed.delete(name);
        else if (!pressed.has(name)) {
          pressed.add(name);
          action();
        }
      }
    }
    return pads.length > 0;
  });

  window.addEventListener("gamepadconnected", poll);
}
