// What the server is told unasked: what this browser can do, and which frames have arrived.

{
  // "Microsoft Basic Render Driver", "Google SwiftShader", "llvmpipe (LLVM ...)", "Apple Software Renderer", ...
  const SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render|software/i;

  let renderer = null; // found out once: a context costs memory

  function findRenderer() {
    const gl = document.createElement("canvas").getContext("webgl2");
    if (gl === null) return "";
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const name = String(gl.getParameter(info === null ? gl.RENDERER : info.UNMASKED_RENDERER_WEBGL));
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return name;
  }

  let greeted = false;
  link.onConnected.push(() => (greeted = false));

  // After the camera, because with that viser's server begins to count us among its clients.
  link.onCamera.push(() => {
    if (greeted) return;
    greeted = true;
    renderer ??= findRenderer();
    link.send("hello", {
      renderer: renderer.slice(0, 500),
      software: renderer === "" || SOFTWARE.test(renderer),
      touch: matchMedia("(pointer: coarse)").matches,
      width: canvas()?.clientWidth ?? 0,
      height: canvas()?.clientHeight ?? 0,
      pixel_ratio: devicePixelRatio,
    });
  });

  /** The number that the server wrote into the comment of a JPEG; null if it wrote none. */
  function numberOf(jpeg) {
    const view = new DataView(jpeg.buffer, jpeg.byteOffset, jpeg.byteLength);
    // Segments: a marker of two bytes, and how long they are after it; the comment is one of the first.
    for (let at = 2; at + 4 <= view.byteLength && view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
      const marker = view.getUint8(at + 1);
      if (marker === 0xda) return null; // what follows is the picture
      if (marker !== 0xfe) continue;
      const text = String.fromCharCode(...jpeg.subarray(at + 4, at + 2 + view.getUint16(at + 2)));
      return /^[1-9]\d{0,14}$/.test(text) ? Number(text) : null;
    }
    return null;
  }

  link.onMessage.push((message) => {
    if (message.type !== "BackgroundImageMessage" || !message.rgb_data) return; // without data it takes the frame away
    const number = numberOf(message.rgb_data);
    if (number === null) return;
    const came = performance.now();
    // A hidden tab does not repaint, so it acknowledges nothing and is sent no more.
    requestAnimationFrame(() => link.send("shown", { number, ms: Math.max(0, performance.now() - came) }));
  });
}
