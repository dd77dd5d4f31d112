// kinds.js knows the order and the colour of the kinds of events.

// The chart stacks in this order: what went well at the bottom.
const order = [
  "delivery", "open", "click", "inbound", "audit-log",
  "unsubscribe", "spam", "soft-bounce", "bounce", "suspension", "reject", "unknown",
];

// family returns the name that style.css has a colour for.
export function family(kind) {
  if (kind.startsWith("activity_log.")) return "audit-log";
  if (kind.startsWith("inbound.")) return "inbound";
  const name = kind.replaceAll(" ", "-");
  return order.includes(name) ? name : "unknown";
}

// familyName returns what the legend calls the family of a kind.
export const familyName = (kind) => family(kind).replaceAll("-", " ");

// inOrder sorts [kind, …] pairs as the chart stacks them.
export function inOrder(pairs) {
  const rank = ([kind]) => order.indexOf(family(kind));
  return pairs.sort((a, b) => rank(a) - rank(b) || (a[0] < b[0] ? -1 : 1));
}
