// A file that is dropped on the page goes where viser's upload button would send it. That button does not exist in the
// page while its tab is not shown, so we send the file ourselves, as viser would.

{
  const LABEL = "Open file"; // of that button
  const PART = 512 * 1024; // bytes of a message
  const AHEAD = 8 * PART; // bytes under way: more would only wait in memory

  let button = null; // its identifier
  let sending = null; // {id, arrived: bytes, wake}

  link.onConnected.push(() => {
    button = null;
    finish();
  });

  link.onMessage.push((message) => {
    if (message.type === "GuiUploadButtonMessage" && message.props.label === LABEL) button = message.uuid;
    if (message.type === "GuiRemoveMessage" && message.uuid === button) button = null;
    if (message.type === "FileTransferPartAck" && message.transfer_uuid === sending?.id) {
      sending.arrived = message.transferred_bytes;
      sending.wake?.();
      return false; // viser would show the progress of a file that it does not know
    }
  });

  function finish() {
    sending?.wake?.();
    sending = null;
  }

  async function send(file) {
    finish(); // a file that is refused is never confirmed
    const id = `drop-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
    const to = { source_component_uuid: button, transfer_uuid: id };
    const mine = (sending = { id, arrived: 0, wake: null });
    link.post({
      type: "FileTransferStartUpload",
      ...to,
      filename: file.name,
      mime_type: file.type,
      part_count: Math.ceil(file.size / PART),
      size_bytes: file.size,
    });
    for (let start = 0, index = 0; start < file.size; start += PART, index++) {
      while (sending === mine && start - mine.arrived >= AHEAD) await new Promise((wake) => (mine.wake = wake));
      const content = new Uint8Array(await file.slice(start, start + PART).arrayBuffer());
      if (sending !== mine) return; // cut off, or another file took its place
      link.post({ type: "FileTransferPart", ...to, part_index: index, content });
      toast(`Sending ${file.name}: ${Math.round((100 * (start + content.length)) / file.size)} %`);
    }
  }

  function bringsFile(event) {
    return event.dataTransfer?.types.includes("Files") ?? false;
  }

  window.addEventListener("dragover", (event) => {
    if (!bringsFile(event)) return;
    event.preventDefault(); // else the browser leaves the page to show the file
    overlay.drop.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) overlay.drop.hidden = true; // left the window
  });
  window.addEventListener("drop", (event) => {
    if (!bringsFile(event)) return;
    event.preventDefault();
    overlay.drop.hidden = true;
    const [file] = event.dataTransfer.files;
    if (button === null) toast("No file can be opened here");
    else if (file !== undefined) send(file).catch(() => toast(`${file.name} cannot be read`));
  });
}
