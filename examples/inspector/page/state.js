// state.js keeps what is open and what is filtered in the URL's hash. A link
// shows the same to whoever opens it, and Back closes a delivery.

const empty = { id: "", kinds: [], q: "", verified: "", status: "", minute: 0 };

export let state = read();
const listeners = [];

function read() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const minute = Date.parse(hash.get("minute") || "");
  return {
    id: hash.get("id") || "",
    kinds: (hash.get("kind") || "").split(",").filter(Boolean),
    q: hash.get("q") || "",
    verified: hash.get("verified") || "",
    status: hash.get("status") || "",
    minute: Number.isNaN(minute) ? 0 : minute,
  };
}

function written() {
  const hash = new URLSearchParams();
  if (state.id) hash.set("id", state.id);
  if (state.kinds.length) hash.set("kind", state.kinds.join(","));
  for (const name of ["q", "verified", "status"]) if (state[name]) hash.set(name, state[name]);
  if (state.minute) hash.set("minute", new Date(state.minute).toISOString());
  return "#" + hash;
}

function tell(before) {
  for (const listener of listeners) listener(state, before);
}

// update changes the state. Opening and closing a delivery makes an entry in
// the browser's history; typing a filter makes none.
export function update(changes) {
  const before = state;
  state = { ...state, ...changes };
  const opens = Boolean(before.id) !== Boolean(state.id);
  history[opens ? "pushState" : "replaceState"](null, "", written());
  tell(before);
}

export const clearFilters = () => update({ ...empty, id: state.id });
export const filtered = () => Boolean(state.kinds.length || state.q || state.verified || state.status || state.minute);

// watch calls listener with the new and the old state after each change.
export function watch(listener) {
  listeners.push(listener);
}

addEventListener("popstate", () => {
  const before = state;
  state = read();
  tell(before);
});
