// api.js talks to the inspector. examples/inspector/README.md documents it.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The inspector does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw Object.assign(new Error(answer.error || "The inspector answers " + response.status + "."), {
    status: response.status,
  });
}

async function post(path, body) {
  const response = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

const delivery = (id) => "/api/deliveries/" + encodeURIComponent(id);

// page returns up to 1000 deliveries that pass the filter, newest first,
// beginning behind the one with the id before.
export async function page(filter, before) {
  const query = new URLSearchParams({ limit: 1000 });
  if (filter.kinds.length) query.set("kind", filter.kinds.join(","));
  if (filter.q) query.set("q", filter.q);
  if (filter.verified) query.set("verified", filter.verified);
  if (filter.status) query.set("status", filter.status);
  if (filter.minute) {
    query.set("since", new Date(filter.minute).toISOString());
    query.set("until", new Date(filter.minute + 60000).toISOString());
  }
  if (before) query.set("before", before);
  return (await ask("/api/deliveries?" + query)).json();
}

export const info = async () => (await ask("/api/info")).json();
export const one = async (id) => (await ask(delivery(id))).json();
export const body = async (id) => new Uint8Array(await (await ask(delivery(id) + "/body")).arrayBuffer());
export const captureURL = (id) => delivery(id) + "/capture";
export const replay = (id, options) => post(delivery(id) + "/replay", options);
export const send = (options) => post("/api/send", options);

// stream calls on.delivery, on.attempt and on.end as things happen, on.open when
// the connection is there, also after an interruption, and on.lost when it is
// not. on.reset tells that the inspector was restarted: ids and runs may be
// others now. EventSource sends Last-Event-ID by itself when it connects again.
export function stream(on) {
  const source = new EventSource("/api/stream");
  source.addEventListener("open", () => on.open());
  source.addEventListener("error", () => {
    on.lost();
    // The browser gives up after an answer that is no stream, such as a
    // proxy's error page. Begin anew then.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => stream(on), 2000);
  });
  for (const name of ["delivery", "attempt", "end", "reset"]) {
    source.addEventListener(name, (event) => on[name](JSON.parse(event.data)));
  }
}
