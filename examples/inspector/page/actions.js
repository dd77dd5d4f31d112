// actions.js has the buttons of a delivery: replay, copy and download.

import * as api from "./api.js";
import { el } from "./text.js";
import { curl } from "./curl.js";
import { goTest } from "./gotest.js";
import * as runs from "./runs.js";

// Longer literals make an editor slow.
const longestTest = 256 * 1024;

// How much faster than Mailtrap, whose attempts are five minutes apart.
export const speeds = [
  [1, "every 5 min"],
  [60, "every 5 s"],
  [300, "every 1 s"],
  [3000, "every 0.1 s"],
];

export function speedSelect(label) {
  return el("select", { "aria-label": label }, speeds.map(([speed, text]) => el("option", { value: speed, selected: speed === 300 }, text)));
}

// Actions shows the buttons for one delivery. getBody() promises its bytes.
export class Actions {
  constructor(delivery, info, getBody) {
    this.delivery = delivery;
    this.info = info;
    this.getBody = getBody;
    this.speed = speedSelect("Time between the attempts");
    this.runs = el("div", { class: "runs" }, runs.replaysOf(delivery.id));
    const button = (text, click, more) => el("button", { type: "button", click, ...more }, text);
    const copy = (text, write) => button(text, () => this.copy(text, write), { disabled: delivery.bytes === 0 });
    this.node = el(
      "div",
      {},
      el(
        "div",
        { class: "actions" },
        button("Replay", () => this.replay(false), { class: "primary", title: "Send it once more (r)" }),
        el("span", { class: "joined" }, button("Replay with retries", () => this.replay(true)), this.speed),
        copy("Copy as curl", (bytes) => curl(info.webhook, delivery.method, delivery.header, bytes)),
        copy("Copy as Go test", (bytes) => this.test(bytes)),
        el("a", { class: "button", href: api.captureURL(delivery.id), download: true }, "Download"),
      ),
      this.runs,
    );
  }

  async replay(retries) {
    try {
      const { run } = await api.replay(this.delivery.id, { retries, speed: Number(this.speed.value) });
      const node = runs.view(run, (retries ? "Replay with retries" : "Replay") + ", run " + run);
      runs.addReplay(this.delivery.id, node);
      this.runs.replaceChildren(...runs.replaysOf(this.delivery.id));
    } catch (error) {
      toast(error.message, true);
    }
  }

  test(bytes) {
    if (bytes.length > longestTest) throw new Error("The body is too long for a test's source: download it and read it from testdata.");
    return goTest(this.delivery, bytes);
  }

  async copy(title, write) {
    try {
      await copyText(title, write(await this.getBody()));
    } catch (error) {
      toast(error.message, true);
    }
  }
}

// copyText puts text on the clipboard. Where the browser does not allow that,
// as for a page that is not on loopback, it shows the text to copy by hand.
export async function copyText(title, text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    const dialog = document.getElementById("copy");
    dialog.querySelector("h2").textContent = title;
    dialog.querySelector("textarea").value = text;
    dialog.showModal();
    dialog.querySelector("textarea").select();
  }
}

let hiding;

// toast says in a corner what was done, or what went wrong.
export function toast(text, bad = false) {
  const node = document.getElementById("toast");
  node.textContent = text;
  node.classList.toggle("bad", bad);
  node.classList.add("seen");
  clearTimeout(hiding);
  hiding = setTimeout(() => node.classList.remove("seen"), bad ? 8000 : 2500);
}
