// A file that is dropped on the page goes where viser's upload button would send it.

{
  const LABEL = "Open file"; // of that button

  let button = null; // its identifier

  link.onMessage.push((message) => {
    if (message.type === "GuiUploadButtonMessage" && message.props.label === LABEL) button = message.uuid;
    if (message.type === "GuiRemoveMessage" && message.uuid === button) button = null;
  });
  link.onConnected.push(() => (button = null));

  function bringsFile(event) {
    return event.dataTransfer?.types.includes("Files") ?? false;
  }

  function give(file) {
    const input = button === null ? null : document.getElementById(`file_upload_${button}`);
    if (input === null) {
      toast("No file can be opened here");
      return;
    }
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
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
    if (event.dataTransfer.files.length > 0) give(event.dataTransfer.files[0]);
  });
}
