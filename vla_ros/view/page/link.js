// The connection to the page's server: opened again whenever it ends, and known to be dead as soon as it is silent.

const SILENT_MS = 1500, AGAIN_MS = 700, WRONG_TOKEN = 4401;

export class Link {
  /** `hear` gets each message, `changed` whether there is a connection, `ask` why a token is wanted. */
  constructor({ hear, changed, ask }) {
    Object.assign(this, { hear, changed, ask });
    this.token = takeToken();
    this.isUp = false;
    this.heardAt = 0;
    setInterval(() => this.watch(), 250);
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/socket`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ token: this.token }));
    socket.onmessage = (event) => {
      this.heardAt = performance.now();
      this.set(true);
      this.hear(event.data);
    };
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      this.set(false);
      if (event.code === WRONG_TOKEN) this.ask(this.token ? event.reason : "");
      else setTimeout(() => this.open(), AGAIN_MS);
    };
  }

  /** True where it went out. */
  send(act) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(act));
    return true;
  }

  useToken(token) {
    this.token = token;
    sessionStorage.setItem("token", token);
    this.open();
  }

  watch() {
    if (this.isUp && performance.now() - this.heardAt > SILENT_MS) this.set(false);
  }

  set(isUp) {
    if (isUp !== this.isUp) this.changed((this.isUp = isUp));
  }
}

/** From the address after `#`, which no browser sends to a server, else as it was typed in before. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") || "";
}
