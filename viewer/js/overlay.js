// What we draw over viser's page: help, short notes, where to drop a file, and the stroke of the brush. It lives in a
// shadow tree, so that neither style sheet reaches the other.

const shadow = document.createElement("div").attachShadow({ mode: "open" });
shadow.host.id = "recon";
shadow.innerHTML = `
  <style>${CSS}</style>
  <canvas class="stroke" hidden></canvas>
  <button class="help" title="Help (?)" aria-label="Help">?</button>
  <div class="toast" role="status" hidden></div>
  <div class="drop" hidden><p>Drop the file to open it</p></div>
  <div class="sheet" role="dialog" aria-label="Help" hidden>
    <div>
      <button class="close" aria-label="Close">×</button>
      <h1>Moving around</h1>
      <section>
        <h2>Keyboard</h2>
        <dl>
          <dt>W S A D</dt><dd>forward, back, left, right</dd>
          <dt>E Q</dt><dd>up, down</dd>
          <dt>Shift</dt><dd>four times as fast</dd>
          <dt>Arrows</dt><dd>turn</dd>
          <dt>F</dt><dd>orbit or first person</dd>
          <dt>R</dt><dd>back to the first view</dd>
          <dt>Delete</dt><dd>delete what is selected</dd>
          <dt>Ctrl Z, Ctrl Shift Z</dt><dd>undo, redo</dd>
          <dt>Escape</dt><dd>lay down the brush, close this</dd>
          <dt>?</dt><dd>this help</dd>
        </dl>
      </section>
      <section>
        <h2>Mouse, orbit</h2>
        <dl>
          <dt>Drag</dt><dd>turn around the point looked at</dd>
          <dt>Right drag</dt><dd>shift the view</dd>
          <dt>Wheel</dt><dd>nearer, farther</dd>
        </dl>
        <h2>Mouse, first person</h2>
        <dl>
          <dt>Drag</dt><dd>look around</dd>
          <dt>Double click</dt><dd>look without dragging, until Escape</dd>
          <dt>Wheel</dt><dd>faster, slower</dd>
        </dl>
      </section>
      <section>
        <h2>Gamepad</h2>
        <dl>
          <dt>Left stick</dt><dd>move; pushed in: run</dd>
          <dt>Right stick</dt><dd>look</dd>
          <dt>Triggers</dt><dd>down, up</dd>
          <dt>Shoulders</dt><dd>slower, faster</dd>
          <dt>A, B, Y</dt><dd>first view, mode, this help</dd>
        </dl>
        <h2>Touch</h2>
        <dl>
          <dt>One finger</dt><dd>orbit, or look around</dd>
          <dt>Two fingers</dt><dd>shift and zoom, or walk</dd>
        </dl>
      </section>
    </div>
  </div>`;

const overlay = {
  stroke: shadow.querySelector(".stroke"),
  drop: shadow.querySelector(".drop"),
  sheet: shadow.querySelector(".sheet"),

  toggle() {
    shadow.host.toggleAttribute("data-dark", isDark());
    this.sheet.hidden = !this.sheet.hidden;
  },

  /** Was there something to close? */
  close() {
    const open = !this.sheet.hidden;
    this.sheet.hidden = true;
    return open;
  },
};

let fading = null;

/** A short note that goes away by itself. */
function toast(text) {
  const note = shadow.querySelector(".toast");
  note.textContent = text;
  note.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (note.hidden = true), 1500);
}

function isDark() {
  const scheme = document.documentElement.dataset.mantineColorScheme; // viser's
  return scheme ? scheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

shadow.querySelector(".help").addEventListener("click", (event) => {
  event.currentTarget.blur(); // so that keys go on moving the camera
  overlay.toggle();
});
overlay.sheet.addEventListener("click", (event) => {
  if (event.target === overlay.sheet || event.target.matches(".close")) overlay.close();
});

// The few rules for what is viser's: the pointer says what a drag would do, and of WebGL in software users need not be
// told, since the server then draws for them.
const rules = document.createElement("style");
rules.textContent = `
  html[data-recon-mode="first-person"] canvas[data-engine] { cursor: grab !important; }
  html[data-recon-brush] canvas[data-engine] { cursor: crosshair !important; }
  #webgl-software-rendering { display: none; }`;

document.addEventListener("DOMContentLoaded", () => {
  document.head.append(rules);
  document.body.append(shadow.host);
  shadow.host.toggleAttribute("data-dark", isDark());
});
