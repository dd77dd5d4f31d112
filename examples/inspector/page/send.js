// send.js is the form that sends samples.

import * as api from "./api.js";
import { el, shown } from "./text.js";
import { family } from "./kinds.js";
import { speedSelect } from "./actions.js";
import * as runs from "./runs.js";

// What each fault does, as package webhooktest has it.
const faults = {
  "": "Nothing goes wrong.",
  forged: "The signature is made with a secret that nobody has. The receiver must refuse it.",
  repeated: "The delivery comes once more after it was acknowledged.",
  twice: "Two copies come at the same time.",
  late: "The first attempt hangs up in the middle of the body, the second while the program works. Needs retries.",
  broken: "One element cannot be read. The receiver must acknowledge the others.",
  reordered: "The events come in reverse order.",
};

export class SendForm {
  constructor(dialog, info) {
    this.dialog = dialog;
    this.form = dialog.querySelector("form");
    const { form } = this;
    form.querySelector("#send-kinds").append(...info.kinds.map(kindBox));
    form.elements.fault.append(...["", ...info.faults].map((fault) => el("option", { value: fault }, fault || "none")));
    this.speed = speedSelect("Time between the attempts");
    form.querySelector("#send-speed").append(this.speed);
    this.runs = dialog.querySelector("#send-runs");
    form.addEventListener("change", () => this.explain());
    form.querySelector("#send-all").addEventListener("click", () => this.toggleAll());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.explain();
  }

  open() {
    if (this.dialog.open) return;
    this.dialog.showModal();
    this.boxes()[0]?.focus();
  }

  boxes() {
    return [...this.form.querySelectorAll("[name=kind]")];
  }

  toggleAll() {
    const all = this.boxes().every((box) => box.checked);
    for (const box of this.boxes()) box.checked = !all;
    this.explain();
  }

  explain() {
    const { fault, retries } = this.form.elements;
    // A delivery that is hung up on twice arrives with the third attempt.
    if (fault.value === "late") retries.checked = true;
    retries.disabled = fault.value === "late";
    this.speed.disabled = !retries.checked;
    this.form.querySelector("#send-fault-text").textContent = faults[fault.value] || "";
    this.form.querySelector("#send-all").textContent = this.boxes().every((box) => box.checked) ? "None" : "All";
  }

  async send() {
    const { n, format, fault, retries, go } = this.form.elements;
    const kinds = this.boxes().filter((box) => box.checked).map((box) => box.value);
    const error = this.form.querySelector("#send-error");
    error.textContent = kinds.length ? "" : "Choose at least one kind of event.";
    if (!kinds.length) return;
    go.disabled = true;
    try {
      const { run } = await api.send({
        kinds: kinds.length === this.boxes().length ? ["all"] : kinds,
        n: n.valueAsNumber || 0, // 0 is one of each kind
        format: format.value,
        fault: fault.value,
        retries: retries.checked,
        speed: Number(this.speed.value),
      });
      this.runs.prepend(runs.view(run, "Run " + run));
      this.runs.firstChild.scrollIntoView({ block: "nearest" });
      while (this.runs.children.length > 3) this.runs.lastChild.remove();
    } catch (e) {
      error.textContent = e.message;
    }
    go.disabled = false;
  }
}

function kindBox(kind) {
  return el(
    "label",
    { class: "check" },
    el("input", { type: "checkbox", name: "kind", value: kind, checked: kind === "delivery" }),
    el("span", { class: "dot k-" + family(kind) }),
    shown(kind),
  );
}
