// main.js puts the page together.

import * as api from "./api.js";
import { count, el, visible } from "./text.js";
import { Chart } from "./chart.js";
import { isAnswered } from "./deliveries.js";
import { Detail } from "./detail.js";
import { List } from "./list.js";
import { setUpFilters } from "./filters.js";
import { Minutes } from "./minutes.js";
import { SendForm } from "./send.js";
import { copyText } from "./actions.js";
import { setUpKeys } from "./keys.js";
import { state, update, watch } from "./state.js";
import * as runs from "./runs.js";

const $ = (id) => document.getElementById(id);

async function start() {
  const info = await inspectorInfo();
  showInfo(info);

  const minutes = new Minutes(() => chart.update());
  const chart = new Chart(minutes, { plot: $("plot"), legend: $("legend"), top: $("top"), from: $("from"), to: $("to") });
  const list = new List({ rows: $("rows"), total: $("total"), nothing: $("nothing"), none: $("none") });
  const detail = new Detail($("detail"), info);
  const form = new SendForm($("send"), info);
  const showFilters = setUpFilters($("filters"));
  const narrow = matchMedia("(width < 1000px)");

  const sides = () => {
    document.body.classList.toggle("narrow", narrow.matches);
    // The open delivery lies over the list: nothing under it may take the focus.
    for (const node of [$("left"), $("bar")]) node.inert = narrow.matches && Boolean(state.id);
  };
  narrow.addEventListener("change", sides);

  watch((now, before) => {
    showFilters();
    sides();
    chart.update();
    if (["kinds", "q", "verified", "status", "minute"].some((name) => String(now[name]) !== String(before[name]))) {
      $("rows").scrollTop = 0;
      list.load(now).then(() => ($("news").textContent = $("total").textContent));
    }
    if (now.id !== before.id) {
      list.follow(now.id);
      detail.show(now.id);
      if (!now.id) $("rows").focus({ preventScroll: true });
    }
  });

  showFilters();
  sides();
  const announce = setUpAnnouncements();
  api.stream({
    // Whatever happens from here on comes through the stream, so the list that
    // is loaded now misses nothing, at the start and after an interruption.
    open() {
      live(true);
      list.load(state);
      minutes.load().catch(() => {});
      detail.reload(state.id);
    },
    lost: () => live(false),
    delivery(summary) {
      minutes.add(summary);
      chart.update();
      list.deliveries.stream(summary);
      detail.again(summary);
      announce(summary);
    },
    reset: () => runs.forget(),
    attempt: runs.attempt,
    end: runs.end,
  });

  setUpKeys({
    j: () => list.move(1),
    k: () => list.move(-1),
    ArrowDown: () => list.move(1),
    ArrowUp: () => list.move(-1),
    Enter: () => list.open(),
    "/": () => $("q").focus(),
    r: () => detail.actions?.replay(false),
    s: () => form.open(),
    "?": () => $("help").showModal(),
    Escape: () => update({ id: "" }),
  });
  for (const button of document.querySelectorAll("[data-send]")) button.addEventListener("click", () => form.open());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  for (const button of document.querySelectorAll("[data-hook]")) button.addEventListener("click", () => copyText("Webhook URL", info.webhook));
  $("help-open").addEventListener("click", () => $("help").showModal());
}

// inspectorInfo waits until the inspector answers.
async function inspectorInfo() {
  for (;;) {
    try {
      return await api.info();
    } catch (error) {
      $("total").textContent = error.message;
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
}

function showInfo(info) {
  for (const node of document.querySelectorAll("[data-hook-url]")) node.textContent = visible(info.webhook);
  $("forward").textContent = info.forward ? "forwards to " + visible(info.forward) : "";
  $("forward").title = $("forward").textContent;
  $("kind").append(...[...info.kinds, "unknown"].map((kind) => el("option", { value: kind }, visible(kind))));
}

function live(yes) {
  $("live").textContent = yes ? "live" : "connecting";
  $("live").classList.toggle("lost", !yes);
}

// setUpAnnouncements tells a screen reader what came in, at most every five
// seconds, so that a burst does not talk for minutes.
function setUpAnnouncements() {
  let [came, wrong, timer] = [0, 0, undefined];
  return (summary) => {
    if (!isAnswered(summary)) return; // it is told again when it is answered
    came++;
    if (summary.verified === "no") wrong++;
    timer ??= setTimeout(() => {
      $("news").textContent = count(came, "new delivery") + (wrong ? ", " + wrong + " not verified" : "");
      [came, wrong, timer] = [0, 0, undefined];
    }, 5000);
  };
}

start();
