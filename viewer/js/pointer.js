// Mouse and fingers in first person: a drag looks around from where the camera is. In orbit they are viser's. We listen
// before viser does; what is pressed and released in one place it still hears as a click.

{
  const CLICK = 4; // px: what moves less is a click
  const TURN = 0.003; // radians for a px of a mouse
  const WALK = 2; // seconds of walking for two fingers that go once over the canvas

  const down = new Map(); // pointers on the canvas, by their number
  let dragged = false; // since the first of them came down

  function onCanvas(event) {
    return event.target instanceof HTMLCanvasElement && event.target === canvas();
  }

  function look(dx, dy, touch) {
    // A finger holds on to what it touches, a mouse turns the head.
    const angle = touch ? -camera.fov / (canvas()?.clientHeight || 1) : TURN;
    camera.step({ yaw: dx * angle, pitch: -dy * angle });
  }

  function walk(dx, dy) {
    const way = (WALK * camera.speed) / (canvas()?.clientHeight || 1);
    camera.step({ right: dx * way, forward: -dy * way });
  }

  /** viser is to forget the pointer: it has turned out to be ours. */
  function cancel(event) {
    const init = { pointerId: event.pointerId, pointerType: event.pointerType, bubbles: true };
    canvas()?.dispatchEvent(new PointerEvent("pointercancel", init));
  }

  function onDown(event) {
    if (camera.mode !== "first-person" || !onCanvas(event)) return;
    if (down.size === 0) dragged = false;
    down.set(event.pointerId, { x: event.clientX, y: event.clientY, drags: false });
  }

  function onMove(event) {
    if (document.pointerLockElement === canvas() && document.pointerLockElement !== null) {
      event.stopImmediatePropagation();
      look(event.movementX, event.movementY, false);
      return;
    }
    const at = down.get(event.pointerId);
    if (at === undefined) return;
    event.stopImmediatePropagation();
    const dx = event.clientX - at.x;
    const dy = event.clientY - at.y;
    if (!at.drags && Math.hypot(dx, dy) < CLICK) return;
    if (!at.drags) {
      at.drags = dragged = true;
      cancel(event);
    }
    at.x = event.clientX;
    at.y = event.clientY;
    if (down.size === 1) look(dx, dy, event.pointerType === "touch");
    else walk(dx / down.size, dy / down.size);
  }

  function onUp(event) {
    const at = down.get(event.pointerId);
    if (at === undefined || !event.isTrusted) return; // not our own pointercancel
    down.delete(event.pointerId);
    if (at.drags) event.stopImmediatePropagation();
  }

  function onClick(event) {
    if (dragged && onCanvas(event)) event.stopImmediatePropagation();
    dragged = false;
  }

  function onWheel(event) {
    if (camera.mode !== "first-person" || !onCanvas(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    camera.changeSpeed(Math.exp(-clamp(event.deltaY, -200, 200) / 500));
  }

  function onDoubleClick(event) {
    if (camera.mode !== "first-person" || !onCanvas(event)) return;
    event.stopImmediatePropagation();
    // A browser may refuse; then drags still look around.
    Promise.resolve(canvas().requestPointerLock?.()).catch(() => {});
  }

  window.addEventListener("pointerdown", onDown, true);
  window.addEventListener("pointermove", onMove, true);
  window.addEventListener("pointerup", onUp, true);
  window.addEventListener("pointercancel", onUp, true);
  window.addEventListener("click", onClick, true);
  window.addEventListener("dblclick", onDoubleClick, true);
  window.addEventListener("wheel", onWheel, { capture: true, passive: false });
}
