// What the page and its switch are made with. Strangers chose process names, names of hosts and paths: they become
// text nodes, never markup (the server's policy forbids the latter, too).

const SVG = "http://www.w3.org/2000/svg";
export const by = (id) => document.getElementById(id);

export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

export function make(tag, names = "", text = "", children = []) {
  const node = document.createElement(tag);
  if (names) node.className = names;
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

export function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/** Make the children of `parent` those of `items`, in order, without touching what stays: focus stays, too. */
export function keep(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const name = key(item);
    let node = old.get(name);
    old.delete(name);
    if (!node) {
      node = create(item);
      node.dataset.key = name;
    }
    update(node, item);
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
  for (const node of old.values()) node.remove();
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let value = bytes, unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
export const sum = (values) => values.reduce((total, value) => total + value, 0);

export function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** A time of day; with the day where it is not today. */
export function clock(text, seconds = false) {
  const time = new Date(text);
  const parts = [time.getHours(), time.getMinutes(), ...(seconds ? [time.getSeconds()] : [])];
  const of_day = parts.map((part) => String(part).padStart(2, "0")).join(":");
  if (time.toDateString() === new Date().toDateString()) return of_day;
  return `${time.toLocaleDateString("en", { day: "numeric", month: "short" })}, ${of_day}`;
}

/** What a destination is called: its name where one is known, else its address, with the port. */
export function endpoint(flow) {
  const host = flow.name ?? flow.remote_addr ?? "other";
  if (flow.remote_port === null) return host;
  return host.includes(":") ? `[${host}]:${flow.remote_port}` : `${host}:${flow.remote_port}`;
}
