// The switch: a browser that opened a link of `sudo tattle open` may lock and allow. Its right is a cookie that no
// script reads, and a secret that this page alone keeps; a change needs both.

import { by, endpoint, keep, make, put } from "./parts.js";

const KEPT = "tattle-switch";
const LOOK_MS = 30_000; // how often runtimes are looked for, while the page is seen
const LIFT_S = 600;
const DNS = 53;
const PATIENCE_MS = 40_000;
const NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$/;
const state = { able: false, found: [], looked: 0, busy: false, changed: () => {} };

export const may = () => state.able && localStorage.getItem(KEPT) !== null;

// --- asking ------------------------------------------------------------------

async function post(what, body) {
  const headers = { "Content-Type": "application/json" };
  const secret = localStorage.getItem(KEPT);
  if (secret) headers["X-Tattle-Switch"] = secret;
  const answer = await fetch(`switch/${what}`, {
    method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store",
  });
  const told = await answer.json();
  if (answer.status === 401 && what !== "right") localStorage.removeItem(KEPT);
  return answer.ok && !told.error ? told : { ...told, error: told.error ?? `answer ${answer.status}` };
}

function say(tone, text, more = "") {
  const node = by("said");
  node.className = `notice ${tone}`;
  node.hidden = false;
  node.replaceChildren(make("b", "say", text), make("span", "say", more));
}

async function change(request, words) {
  if (state.busy) return;
  state.busy = true;
  document.body.classList.add("switching");
  say("", `${words} …`);
  try {
    const told = await post("change", request);
    if (told.error) {
      say("bad", `Not done: ${told.error}`, told.hint);
    } else {
      const [first, ...rest] = told.text.trim().split("\n");
      say("good", first[0].toUpperCase() + first.slice(1), rest.map((line) => line.trim()).join("\n"));
    }
    state.looked = 0;
  } catch (error) {
    say("bad", "Not done, or not known: tattle does not answer.", String(error.message));
  } finally {
    state.busy = false;
    document.body.classList.remove("switching");
    state.changed();
  }
}

/** Ask before something is lost. */
function sure(text) {
  const dialog = by("sure");
  put(dialog.querySelector("p"), text);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Take the code out of the address, before anything else can see it, and exchange it. */
async function open() {
  const code = new URLSearchParams(location.hash.slice(1)).get("switch");
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  try {
    const told = await post("right", { code });
    if (told.error) {
      say("bad", `This browser may not switch: ${told.error}.`);
    } else {
      localStorage.setItem(KEPT, told.secret);
      say("good", "This browser may switch now, for twelve hours or until tattle ends.");
    }
  } catch (error) {
    say("bad", "tattle does not answer.", String(error.message));
  }
  state.looked = 0;
  state.changed();
}

async function leave() {
  try {
    await post("leave", {});
  } finally {
    localStorage.removeItem(KEPT);
    say("", "This browser only shows, from now on.");
    state.changed();
  }
}

/** Look for runtimes now and then; only who may switch sees what runs here and is no target. */
async function look() {
  if (!may() || state.busy || Date.now() - state.looked < LOOK_MS) return;
  state.looked = Date.now();
  const told = await post("change", { do: "survey" });
  if (told.error) return;
  state.found = told.found;
  state.changed();
}

// --- what a card has ---------------------------------------------------------

const LOCKS = [["watch", "Watch only"], ["audit", "Audit"], ["block", "Block"], ["keep", "Keep pulls"]];

function button(text, act) {
  const node = make("button", "act", text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

function lock_of(one) {
  if (one.mode === "audit") return "audit";
  if (one.mode !== "enforce" && one.mode !== "strict") return "watch";
  return one.keep.length === 1 && one.keep[0] === "pull" ? "keep" : one.keep.length ? "" : "block";
}

async function press(one, lock) {
  const name = one.target;
  if (lock === "watch") {
    const rules = one.rules.length ? ` Its rules go, too: ${one.rules.join(", ")}.` : "";
    if (rules && !(await sure(`Lift the lock of ${name} for good?${rules}`))) return;
    await change({ do: "unlock", target: name }, `Unlocking ${name}`);
  } else if (lock === "audit") {
    await change({ do: "lock", target: name, mode: "audit", keep: one.keep }, `Auditing ${name}`);
  } else {
    await change({ do: "lock", target: name, mode: "enforce", keep: lock === "keep" ? ["pull"] : [] }, `Locking ${name}`);
  }
}

export function make_controls() {
  const node = make("div", "controls");
  const group = make("div", "locks");
  group.setAttribute("role", "group");
  for (const [lock, words] of LOCKS) {
    const one = button(words, () => { if (one.getAttribute("aria-pressed") !== "true") press(node.item, lock); });
    one.dataset.lock = lock;
    group.append(one);
  }
  const lift = button("", () => {
    const one = node.item;
    if (one.until) press(one, lock_of(one));
    else change({ do: "unlock", target: one.target, seconds: LIFT_S }, `Allowing ${one.target} for 10 minutes`);
  });
  lift.classList.add("lift");
  node.append(group, lift);
  return node;
}

export function fill_controls(node, one) {
  node.item = one;
  node.hidden = !may();
  const now = lock_of(one);
  const group = node.firstChild;
  group.setAttribute("aria-label", `Lock of ${one.target}`);
  for (const each of group.children) {
    each.setAttribute("aria-pressed", String(each.dataset.lock === now));
    if (each.dataset.lock === "keep") each.hidden = !one.purposes.includes("pull");
  }
  const lift = node.lastChild;
  lift.hidden = now === "watch" || now === "audit";
  put(lift, one.until ? "Lock again now" : "Allow for 10 minutes");
}

/** Runtimes that are here and no target, as targets of which nothing is counted apart. */
export function strangers(targets) {
  if (!may()) return [];
  const known = new Set(targets.flatMap((one) => [one.target, one.runtime]));
  const seen = new Map(state.found.filter((one) => !known.has(one.name)).map((one) => [one.name, one]));
  return [...seen.values()].map((one) => ({
    target: one.name, title: one.title, running: one.running, how: one.how, mode: "observe", enforced: false,
    rules: [], keep: [], until: null, purposes: one.purposes.map((purpose) => purpose.name),
  }));
}

export function stranger() {
  return make("li", "card", "", [
    make("header", "", "", [make("h3", "say"), make("span", "chip lock")]), make("p", "meaning"), make_controls(),
  ]);
}

export function fill_stranger(node, one) {
  put(node.querySelector("h3"), one.target);
  put(node.querySelector(".lock"), one.running ? "○ Found" : "○ Installed");
  put(node.querySelector(".meaning"), one.running ? `${one.title} runs here (${one.how}). Nothing is stopped.`
    : `${one.title} is ${one.how}, and does not run. Nothing will be stopped.`);
  fill_controls(node.querySelector(".controls"), one);
}

// --- what a destination has --------------------------------------------------

/** The rule that means a destination: its name, or else its address; with the port where it is to be allowed. */
function rule(one, allow) {
  const named = one.name && NAME.test(one.name);
  const host = named ? one.name : one.address?.includes(":") ? `[${one.address}]` : one.address;
  if (!host) return null;
  if (allow && one.port === DNS) return null; // names carry data out: a resolver is opened by the names it may be asked
  if (!allow || one.port === null) return host;
  if (named) return one.proto === "udp" ? `${host}:${one.port}/udp` : `${host}:${one.port}`;
  return ["tcp", "udp"].includes(one.proto) ? `${host}:${one.port}/${one.proto}` : host;
}

/** A button beside a destination: "Allow this" where it was denied, "Block" where nobody expected it. */
export function make_choice(allow) {
  const node = button(allow ? "Allow this" : "Block", () => {
    const text = rule(node.item, allow);
    const words = `${allow ? "Allowing" : "Blocking"} ${text} for ${node.item.target}`;
    change({ do: "rule", target: node.item.target, rule: text, allow }, words);
  });
  node.classList.add("choice");
  return node;
}

export function fill_choice(node, one, wanted) {
  node.item = one;
  const allow = node.textContent === "Allow this";
  node.hidden = !wanted || !may() || one.target === null || rule(one, allow) === null;
  node.setAttribute("aria-label", `${node.textContent}: ${one.target}, ${rule(one, allow)}`);
}

/** Names that policies have refused: nothing was sent to them, so that they are no destinations. */
export function refused(data) {
  const rows = data.refused.map((one) => ({ ...one, address: null, proto: "tcp", key: `${one.target} ${one.name}` }));
  keep(by("refused"), rows, (one) => one.key, () => make("li", "", "",
    [make("span", "stopped", "name refused"), make("b", "say"), make("span", "say muted"), make_choice(true)]), (node, one) => {
    put(node.querySelector("b"), endpoint({ name: one.name, remote_port: one.port }));
    put(node.querySelector(".muted"), `asked for by ${one.target}`);
    fill_choice(node.querySelector(".choice"), one, true);
  });
}

// --- the whole ---------------------------------------------------------------

export function render(data) {
  state.able = data.switch;
  by("switch").hidden = !data.switch;
  put(by("switch-said"), may() ? "This browser may switch." : "This page only shows. To switch from here: sudo tattle open");
  by("leave").hidden = !may();
  refused(data);
  look();
}

/** Begin; `changed` is called when the page is to be drawn again. */
export function start(changed) {
  state.changed = changed;
  by("leave").addEventListener("click", leave);
  addEventListener("hashchange", open);
  open();
}
