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
  let frames = 0;

  link.onConnected.push(() => {
    greeted = false;
    frames = 0;
  });

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

  link.onMessage.push((message) => {
    if (message.type !== "BackgroundImageMessage" || !message.rgb_data) return; // without data it takes the frame away
    const number = ++frames;
    const came = performance.now();
    // A hidden tab does not repaint, so it acknowledges nothing and is sent no more.
    requestAnimationFrame(() => link.send("shown", { number, ms: Math.max(0, performance.now() - came) }));
  });
}
