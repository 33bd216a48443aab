// Where the camera is and how it moves, in the server's world. We move it ourselves, frame by frame, without asking the
// server: it learns of it as it does of viser's own moves.

const RUN = 4; // times as fast with shift
const STEEPEST = (85 * Math.PI) / 180; // the view never reaches the up direction, where turning would have no meaning

const plus = (a, b, factor = 1) => a.map((value, i) => value + factor * b[i]);
const times = (a, factor) => a.map((value) => factor * value);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const length = (a) => Math.hypot(...a);
const unit = (a) => times(a, 1 / (length(a) || 1));
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

const camera = {
  pose: null, // {position, target, up, side}: vectors, side to the right; null until viser has told
  fov: 1, // vertical, radians
  speed: 1, // world units a second
  mode: "orbit", // or "first-person"
  home: {}, // position and target that reset goes to
  moved: -Infinity, // ms, when we moved it last
  telling: null, // a timer

  /** Go by right, up, forward (world units) and turn by yaw to the right and pitch upwards (radians). */
  step({ right = 0, up = 0, forward = 0, yaw = 0, pitch = 0 }) {
    if (this.pose === null || !(right || up || forward || yaw || pitch)) return;
    const { position, target } = this.pose;
    const above = unit(this.pose.up);
    const distance = length(plus(target, position, -1)) || 1;
    let ahead = unit(plus(target, position, -1));
    const across = cross(ahead, above);
    const side = length(across) > 1e-6 ? unit(across) : this.pose.side; // else it looks straight up or down
    const way = plus(plus(times(side, right), above, up), ahead, forward);

    if (yaw || pitch) {
      const level = cross(above, side);
      const heading = plus(times(level, Math.cos(yaw)), side, Math.sin(yaw));
      const before = Math.asin(clamp(dot(ahead, above), -1, 1));
      const elevation = clamp(before + pitch, Math.min(-STEEPEST, before), Math.max(STEEPEST, before));
      ahead = plus(times(heading, Math.cos(elevation)), above, Math.sin(elevation));
    }
    // In orbit the target stays where it is when the view turns, else the camera.
    const turned =
      this.mode === "orbit"
        ? { position: plus(target, ahead, -distance), target }
        : { position, target: plus(position, ahead, distance) };
    this.pose.side = side;
    this.go(plus(turned.position, way), plus(turned.target, way));
  },

  /** Look from one point to another, at once. */
  go(position, target) {
    this.pose = { ...this.pose, position, target };
    this.moved = performance.now();
    link.inject([
      { type: "SetCameraPositionMessage", position, initial: false },
      { type: "SetCameraLookAtMessage", look_at: target, initial: false },
    ]);
  },

  reset() {
    if (this.home.position && this.home.target) this.go(this.home.position, this.home.target);
  },

  /** Change how the user moves. */
  setMode(mode) {
    if (mode === this.mode) return;
    this.mode = mode;
    if (mode === "orbit" && document.pointerLockElement) document.exitPointerLock();
    document.documentElement.dataset.reconMode = mode;
  },

  toggleMode() {
    this.setMode(this.mode === "orbit" ? "first-person" : "orbit");
    toast(this.mode === "orbit" ? "Orbit" : "First person");
    this.tell();
  },

  changeSpeed(factor) {
    this.speed = clamp(this.speed * factor, 1e-4, 1e4);
    toast(`Speed ${this.speed.toPrecision(2)} units a second`);
    this.tell();
  },

  /** Have the server know of what was changed here, once it is not changed any more. */
  tell() {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => link.send("navigation", { mode: this.mode, speed: this.speed }), 200);
  },
};

{
  link.onCamera.push((message) => {
    camera.fov = message.fov;
    camera.home.position ??= message.position;
    camera.home.target ??= message.look_at;
    // While we move, what viser reports is a moment old.
    if (camera.pose !== null && performance.now() - camera.moved < 100) return;
    const [w, x, y, z] = message.wxyz;
    const side = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]; // the camera's x axis
    camera.pose = { position: message.position, target: message.look_at, up: message.up_direction, side };
  });

  // The server may move the camera while we do.
  link.onMessage.push((message) => {
    const place = message.initial ? camera.home : camera.pose;
    if (place === null) return;
    if (message.type === "SetCameraPositionMessage") place.position = Array.from(message.position);
    if (message.type === "SetCameraLookAtMessage") place.target = Array.from(message.look_at);
    if (message.type === "SetCameraUpDirectionMessage") place.up = Array.from(message.position);
  });
}

/** Returns what starts to call `advance(seconds)` before each repaint, for as long as that returns true. */
function whileActive(advance) {
  let last = null; // null: it does not run
  function frame(now) {
    const seconds = clamp((now - last) / 1000, 0, 0.1); // a repaint may have begun before the event that started us
    last = now;
    if (advance(seconds)) requestAnimationFrame(frame);
    else last = null;
  }
  return () => {
    if (last !== null) return;
    last = performance.now();
    requestAnimationFrame(frame);
  };
}
