// filters.js ties the controls above the list to the state.

import { clock, visible } from "./text.js";
import { clearFilters, filtered, state, update } from "./state.js";

// setUpFilters returns a function that shows the state in the controls.
export function setUpFilters(form) {
  const { q, kind, verified, status } = form.elements;
  const minute = form.querySelector("#minute");
  let typing;
  form.addEventListener("submit", (event) => event.preventDefault());
  q.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => update({ q: q.value.trim() }), 200);
  });
  kind.addEventListener("change", () => update({ kinds: kind.value ? kind.value.split(",") : [] }));
  verified.addEventListener("change", () => update({ verified: verified.value }));
  status.addEventListener("change", () => update({ status: status.value }));
  minute.addEventListener("click", () => update({ minute: 0 }));
  for (const clear of document.querySelectorAll("[data-clear]")) {
    clear.addEventListener("click", () => {
      clearTimeout(typing);
      clearFilters();
    });
  }

  return function show() {
    // What is typed in the next moment must not be overwritten.
    if (document.activeElement !== q) q.value = state.q;
    const kinds = state.kinds.join(",");
    const several = kind.querySelector("[data-several]");
    if (kinds && ![...kind.options].some((option) => option.value === kinds && option !== several)) {
      several.value = kinds;
      several.textContent = state.kinds.length > 1 ? state.kinds.length + " kinds" : visible(kinds);
      several.hidden = false;
      kind.value = kinds;
    } else {
      several.hidden = true;
      kind.value = kinds;
    }
    verified.value = state.verified;
    status.value = state.status;
    minute.hidden = !state.minute;
    minute.firstElementChild.textContent = clock(new Date(state.minute)).slice(0, 5);
    form.querySelector("[data-clear]").hidden = !filtered();
  };
}
