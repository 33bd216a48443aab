// The link to viser's client. Its websocket lives in a worker, so all that goes to the server and comes from it passes
// through that worker's postMessage and onmessage: there we listen, send messages of our own, and hand viser's client
// messages as if the server had sent them.

const link = {
  worker: null, // viser's, once it is known
  connected: false,
  onCamera: [], // functions of a ViewerCameraMessage that goes out
  onMessage: [], // functions of each message that comes in; viser never sees those for which one returns false
  onConnected: [],

  /** Send the server a message of viser's protocol. */
  post(message) {
    if (this.connected) this.worker.postMessage({ type: "send", message });
  },

  /** Send it one of our own (channel.py says which there are). */
  send(name, values) {
    this.post({ type: "PageMessage", name, values });
  },

  /** Have viser's client take these messages for the server's. */
  inject(messages) {
    this.worker?.onmessage?.({ data: { type: "message_batch", messages } });
  },
};

{
  const token = new URLSearchParams(location.search).get("token"); // viser's client rewrites the address later
  const NativeWorker = window.Worker;

  window.Worker = class extends NativeWorker {
    constructor(...given) {
      super(...given);
      // Before viser sets its own listener, so that ours hears first.
      this.addEventListener("message", (event) => {
        if (this === link.worker) received(event.data);
      });
    }

    postMessage(message, ...transferred) {
      if (message?.type === "set_server") {
        link.worker = this; // viser has other workers too: only this one is told of a server
        // Where cookies are refused, the token still comes along.
        if (token !== null) message = { ...message, server: `${message.server}?token=${encodeURIComponent(token)}` };
      }
      super.postMessage(message, ...transferred);
      const sent = message?.type === "send" ? message.message : null;
      if (this === link.worker && sent?.type === "ViewerCameraMessage") {
        for (const hear of link.onCamera) hear(sent);
      }
    }
  };

  function received(data) {
    if (data.type === "connected") {
      link.connected = true;
      for (const hear of link.onConnected) hear();
    } else if (data.type === "closed") {
      link.connected = false;
    } else if (data.type === "message_batch") {
      // viser's listener gets the same object after ours.
      data.messages = data.messages.filter((message) => !link.onMessage.map((hear) => hear(message)).includes(false));
    }
  }

  setTimeout(() => {
    if (link.worker === null) console.warn("recon: this version of viser is not known; moving is as viser has it");
  }, 15_000);
}

/** viser's canvas; null while there is none. */
function canvas() {
  return document.querySelector('canvas[data-engine^="three.js"]');
}
