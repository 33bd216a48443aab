// The brush: a stroke over the picture that goes to the server as a list of points.

const brush = {
  radius: null, // CSS px; null: not in hand
  points: null, // of the stroke under way

  start(radius) {
    if (this.radius === null) toast("Brush: paint over what you mean, Escape ends");
    this.radius = radius;
    document.documentElement.dataset.reconBrush = "on";
  },

  /** Lay it down; was it in hand? The server is told unless it asked. */
  stop(tell = true) {
    if (this.radius === null) return false;
    this.radius = this.points = null;
    overlay.stroke.hidden = true;
    delete document.documentElement.dataset.reconBrush;
    if (tell) this.report([]);
    return true;
  },

  report(points) {
    const { width, height } = canvas().getBoundingClientRect();
    link.send("brush", { points, width, height });
  },
};

{
  const MOST = 20_000; // points; the server takes no more

  let pointer = null; // the one that paints

  function add(event) {
    const frame = canvas().getBoundingClientRect();
    if (brush.points.length < MOST) brush.points.push([event.clientX - frame.left, event.clientY - frame.top]);
  }

  function draw() {
    const frame = canvas().getBoundingClientRect();
    const sheet = overlay.stroke;
    sheet.hidden = false;
    Object.assign(sheet.style, { left: `${frame.left}px`, top: `${frame.top}px` });
    sheet.width = frame.width; // also wipes it
    sheet.height = frame.height;
    const context = sheet.getContext("2d");
    context.strokeStyle = "#f0a63a";
    context.lineWidth = 2 * brush.radius;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    for (const [x, y] of brush.points) context.lineTo(x, y);
    context.lineTo(...brush.points.at(-1)); // a single point is seen too
    context.stroke();
  }

  function onDown(event) {
    if (brush.radius === null || event.target !== canvas() || event.button !== 0) return;
    event.stopImmediatePropagation();
    if (pointer !== null) return;
    pointer = event.pointerId;
    brush.points = [];
    add(event);
    draw();
  }

  function onMove(event) {
    if (brush.points === null || event.pointerId !== pointer) return;
    event.stopImmediatePropagation();
    add(event);
    draw();
  }

  function onUp(event) {
    if (event.pointerId !== pointer) return;
    pointer = null;
    if (brush.points === null) return; // laid down meanwhile
    event.stopImmediatePropagation();
    if (event.type === "pointerup") brush.report(brush.points);
    brush.points = null;
    overlay.stroke.hidden = true;
  }

  function onClick(event) {
    if (brush.radius !== null && event.target === canvas()) event.stopImmediatePropagation();
  }

  window.addEventListener("pointerdown", onDown, true);
  window.addEventListener("pointermove", onMove, true);
  window.addEventListener("pointerup", onUp, true);
  window.addEventListener("pointercancel", onUp, true);
  window.addEventListener("click", onClick, true);
}
