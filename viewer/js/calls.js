// What the server may call: window.recon.<name>(values). See channel.py.

window.recon = {
  /** mode: "orbit" or "first-person"; speed: world units a second; up: [x, y, z]. What is not given stays. */
  navigation({ mode, speed, up }) {
    if (mode !== undefined) camera.setMode(mode);
    if (speed !== undefined) camera.speed = speed;
    if (up !== undefined) {
      if (camera.pose !== null) camera.pose.up = up;
      link.inject([{ type: "SetCameraUpDirectionMessage", position: up, initial: false }]);
    }
  },

  /** radius: CSS px; null lays the brush down. */
  brush({ radius }) {
    if (radius === null) brush.stop(false);
    else brush.start(radius);
  },

  /** Send these keys too, named as channel.py has them. */
  keys({ keys: names }) {
    for (const name of names) keys.asked.add(name);
  },

  help() {
    overlay.toggle();
  },
};
