// Shows /data.json and asks for it again. Strangers chose process names, names of hosts and paths: they become
// text nodes, never markup (the server's policy forbids the latter, too).

import { by, clock, count, draw, endpoint, keep, list, make, put, size, sum } from "./parts.js";
import { look as look_at_the_day } from "./day.js";
import * as lever from "./switch.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 8000;
const SPANS_MIN = [3, 6, 15]; // the timeline is as long as its past needs
const PHASES = ["account", "pull", "inference", "startup", "idle", "unknown"]; // most telling first
const PHASE_WORDS = {
  account: "account", pull: "pulling a model", inference: "inference", startup: "starting", idle: "idle",
  unknown: "not known",
};
const AWAY = { internet: "on the internet", lan: "on the local network", multicast: "by multicast", unknown: "not kept apart" };
const PLACES = { internet: "internet", lan: "local network", multicast: "multicast", loopback: "this machine", host: "this machine" };
const LOST = {
  ring_full: "events not logged; the counters are exact",
  flows_full: "flows without an address of their own; their bytes are in the sums",
  processes_full: "processes that found no room",
  cgroups_full: "cgroups that found no room",
  storage_refused: "sockets for which the kernel had no memory",
  log_full: "lines the event log's disk had no room for",
  log_blocked: "lines the event log's reader did not take",
  watcher_slow: "lines a slow `tattle watch` did not take",
  openings_full: "answers for allowed names that opened no address; the counters are exact",
  notices_full: "things noticed a moment late; the counters are exact",
};
const EXACT = new Set(["watcher_slow", "openings_full", "notices_full"]); // no counter knows less for these
const DNS = 53;
const view = { sort: "last", down: true, filter: "", all: false, data: null };

// --- the answer --------------------------------------------------------------

const away = (one) => Object.entries(one.left).filter(([where]) => where in AWAY);
const sent = (one) => sum(away(one).map(([, sums]) => sums.bytes_out));
const received = (one) => sum(away(one).map(([, sums]) => sums.bytes_in));
const denied = (one) => sum(Object.values(one.left).map((sums) => sums.denied));
const would = (one) => sum(Object.values(one.left).map((sums) => sums.would_deny));

function places(one) {
  const found = away(one).filter(([, sums]) => sums.bytes_out > 0);
  found.sort(([, a], [, b]) => b.bytes_out - a.bytes_out);
  const words = found.map(([where, sums], index) => {
    const number = sums.places.toLocaleString("en");
    const noun = index ? "" : sums.places === 1 ? " place" : " places";
    return sums.places ? `${number}${noun} ${AWAY[where]}` : `places ${AWAY[where]}`;
  });
  return list(words);
}

const told = (one) => `${size(sent(one))} to ${places(one)}`;

/* Said only for the time in which whatever matches was known; what has not run is said to be so. */
function absent(quiet, names, data) {
  const known = quiet.map((one) => one.since || data.now).concat(data.since).sort().at(-1);
  const running = quiet.some((one) => one.members);
  if (!running) return `Nothing of ${names} runs now; nothing left for it since ${clock(known)}.`;
  return `Nothing left this machine for ${names} since ${clock(known)}.`;
}

function headline(data) {
  const since = clock(data.since);
  if (!data.targets.length) {
    if (!sent(data.others)) return `Nothing left this machine since ${since}.`;
    return `Programs of this machine sent ${told(data.others)} since ${since}.`;
  }
  const loud = data.targets.filter(sent), quiet = data.targets.filter((one) => !sent(one));
  const names = (some) => (some.length > 3 ? count(some.length, "target") : list(some.map((one) => one.target)));
  if (!loud.length) return absent(quiet, names(quiet), data);
  if (loud.length > 3) return `${loud.length} of ${data.targets.length} targets sent something since ${since}.`;
  return `${list(loud.map((one) => `${one.target} sent ${told(one)}`))} since ${since}.`;
}

function detail(data) {
  const said = [];
  const loud = data.targets.filter(sent), quiet = data.targets.filter((one) => !sent(one));
  const last = loud.map((one) => one.last_left).sort().at(-1);
  if (last) said.push(`Last seen leaving at ${clock(last, true)}; ${size(sum(loud.map(received)))} came back.`);
  if (loud.length && quiet.length && quiet.length <= 3) said.push(`Nothing left for ${list(quiet.map((one) => one.target))}.`);
  const stopped = sum(data.targets.map(denied)), counted = sum(data.targets.map(would));
  if (stopped) said.push(`${count(stopped, "try was", "tries were")} stopped in the kernel.`);
  if (counted) said.push(`${count(counted, "try", "tries")} would have been stopped (audit).`);
  const asked = data.targets.filter((one) => one.local_dns.bytes_out);
  if (asked.length) said.push(`${list(asked.map((one) => one.target))} asked this machine’s own resolver for names; what it forwards is its doing.`);
  if (!data.targets.length) said.push("No program is watched by name.");
  return said.join(" ");
}

/** Which destinations no profile of the runtime explains, in words; the newest few. */
function unexpected(all) {
  const found = all.filter((one) => one.unexpected && one.target !== null).sort((a, b) => (a.last < b.last ? 1 : -1));
  return [...new Set(found.map((one) => one.target))].map((target) => {
    const names = [...new Set(found.filter((one) => one.target === target).map((one) => one.place))];
    const more = names.length > 3 ? [`${names.length - 3} more`] : [];
    return ["warn", `Not expected of ${target}: ${list([...names.slice(0, 3), ...more])}.`];
  });
}

function notices(data) {
  const lost = Object.entries(data.losses).filter(([, number]) => number > 0);
  const found = data.ill.map((text) => ["bad", `${text[0].toUpperCase()}${text.slice(1)}.`]);
  if (data.ill.length || lost.some(([reason]) => !EXACT.has(reason) && !reason.startsWith("log_"))) {
    found.push(["warn", "This may not be the whole picture: see “Can this be trusted?” below."]);
  }
  return found;
}

// --- targets -----------------------------------------------------------------

function lock(one, ill) {
  if (one.until) return ["warn", "◔ Lifted", `Nothing is stopped until ${clock(one.until, true)}; then it is locked again, by itself.`];
  if (one.mode === "enforce" || one.mode === "strict") {
    return one.enforced ? ["good", "● Locked", "The kernel enforces its rules now."]
      : ["bad", "▲ Not enforced", "It has rules, and the kernel does not enforce all of them."];
  }
  if (one.mode === "audit") {
    const gap = ill.some((text) => text.includes(`policy of ${one.target} `));
    return gap ? ["bad", "▲ Audit, with gaps", "Its rules are not in place for all of it."]
      : ["warn", "◐ Audit", "Nothing is stopped; what its rules would stop is counted."];
  }
  return ["", "○ Watched", "Seen and counted. Nothing is stopped."];
}

function card() {
  const terms = ["sent", "received", "stopped"].map((term) => make("div", "", "", [make("dt", "", term), make("dd", `of-${term}`)]));
  return make("li", "card", "", [
    make("header", "", "", [make("h3", "say"), make("span", "chip lock")]),
    make("dl", "pair", "", terms),
    make("p", "meaning"), make("p", "rules say muted"), make("p", "now"), make("p", "doing muted"),
    lever.make_controls(),
  ]);
}

function fill(node, one, ill) {
  const [tone, word, meaning] = lock(one, ill);
  const find = (name) => node.querySelector(name);
  put(find("h3"), one.target);
  put(find(".lock"), word).className = `chip lock ${tone}`;
  put(find(".of-sent"), size(sent(one))).title = `${sent(one).toLocaleString("en")} bytes`;
  put(find(".of-received"), size(received(one))).title = `${received(one).toLocaleString("en")} bytes`;
  put(find(".of-stopped"), denied(one).toLocaleString("en"));
  put(find(".meaning"), meaning);
  const rest = one.default === "allow" ? "all else is allowed" : "all else is stopped";
  const rules = one.default === null ? "" : one.rules.length ? `Rules: ${one.rules.join(", ")}; ${rest}.`
    : one.default === "deny" ? "Allowed: this machine, and answers to its own clients." : "Everything is allowed.";
  put(find(".rules"), rules).hidden = !rules;
  const requests = one.requests ?? {};
  const flying = PHASES.filter((phase) => requests[phase] > 0)
    .map((phase) => [phase, `${count(requests[phase], "request")} in flight: ${phase === "idle" ? "other" : PHASE_WORDS[phase]}`]);
  if (!flying.length && one.processes && one.phase !== "unknown") flying.push([one.phase, PHASE_WORDS[one.phase]]);
  keep(find(".now"), flying, ([phase]) => phase, ([phase]) => make("span", "tag", "", [swatch(phase), make("span")]),
    (tag, [, words]) => put(tag.lastChild, words));
  find(".now").hidden = !flying.length;
  const alive = one.processes ? count(one.processes, "process", "processes") : "not running";
  const served = one.served.connections ? [`served ${count(one.served.connections, "connection")}`] : [];
  put(find(".doing"), [alive, ...served].join(" · "));
  lever.fill_controls(find(".controls"), one);
}

// --- timeline ----------------------------------------------------------------

const WIDE = 900, STRIP = 12, TALL = 66;

function span(data) {
  const past = (new Date(data.now).getTime() - (data.timeline[0]?.start_ms ?? Infinity)) / 60_000;
  return SPANS_MIN.find((minutes) => past <= minutes) ?? SPANS_MIN.at(-1);
}

function lanes(data, minutes) {
  const end = new Date(data.now).getTime(), length = minutes * 60_000;
  const seen = new Set();
  const found = data.targets.map((one) => {
    const steps = data.timeline.map((step) => ({
      from: Math.max(0, WIDE * (1 - (end - step.start_ms) / length)),
      to: Math.min(WIDE, WIDE * (1 - (end - step.end_ms) / length)),
      seconds: (step.end_ms - step.start_ms) / 1000,
      moved: step.moved[one.target] ?? {},
      now: step.phases[one.target],
    })).filter((step) => step.to > step.from);
    const out = {};
    for (const step of steps) {
      step.phase = PHASES.find((phase) => step.now === phase || step.moved[phase]) ?? null;
      step.rate = sum(Object.values(step.moved).map(([bytes]) => bytes)) / step.seconds;
      for (const [phase, [bytes]] of Object.entries(step.moved)) out[phase] = (out[phase] ?? 0) + bytes;
      if (step.phase) seen.add(step.phase);
    }
    const known = [one.since ?? data.now, data.since].sort().at(-1);
    return { name: one.target, known: new Date(known) > new Date(end - length) ? known : null, steps, out, peak: Math.max(0, ...steps.map((step) => step.rate)) };
  });
  return [found, PHASES.filter((phase) => seen.has(phase))];
}

function paint(lane) {
  const marks = [draw("rect", { x: 0, y: 0, width: WIDE, height: STRIP, class: "none" })];
  for (const step of lane.steps) {
    const place = { x: step.from.toFixed(2), width: (step.to - step.from).toFixed(2) };
    if (step.phase) marks.push(draw("rect", { ...place, y: 0, height: STRIP, class: step.phase }));
    let top = STRIP + 4 + TALL;
    for (const phase of PHASES) {
      const bytes = step.moved[phase]?.[0] ?? 0;
      if (!bytes) continue;
      const height = Math.max(2, (bytes / step.seconds / lane.peak) * TALL);
      top -= height;
      marks.push(draw("rect", { ...place, y: top.toFixed(2), height: height.toFixed(2), class: phase }));
    }
  }
  return marks;
}

function lane_said(lane) {
  const parts = PHASES.filter((phase) => lane.out[phase]).map((phase) => `${size(lane.out[phase])} during ${PHASE_WORDS[phase]}`);
  if (parts.length) return `${list(parts)} left`;
  return lane.known ? `nothing left since ${clock(lane.known)}` : "nothing left";
}

function timeline(data) {
  by("timeline-section").hidden = !data.targets.length;
  const minutes = span(data);
  put(by("span"), `the last ${minutes} minutes`);
  const [found, seen] = lanes(data, minutes);
  keep(by("timelines"), found, (lane) => lane.name, () => {
    const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${STRIP + 4 + TALL}`, preserveAspectRatio: "none", role: "img" });
    const axis = make("p", "axis", "", ["ago", "two", "one", "now"].map((name) => make("span", name, name)));
    axis.setAttribute("aria-hidden", "true");
    return make("div", "lane", "", [make("header", "", "", [make("b", "say"), make("span", "muted")]), svg, axis]);
  }, (node, lane) => {
    put(node.querySelector("b"), lane.name);
    const peak = lane.peak ? ` · peak ${size(lane.peak)}/s` : "";
    put(node.querySelector("header .muted"), `${lane_said(lane)}${peak}`);
    const svg = node.querySelector("svg");
    svg.setAttribute("aria-label", `${lane.name}, the last ${minutes} minutes: ${lane_said(lane)}`);
    put(node.querySelector(".ago"), `${minutes} min ago`);
    put(node.querySelector(".two"), String((minutes * 2) / 3));
    put(node.querySelector(".one"), String(minutes / 3));
    svg.replaceChildren(...paint(lane));
  });
  keep(by("legend"), seen, (phase) => phase, (phase) => make("li", "tag", "", [swatch(phase), PHASE_WORDS[phase]]), () => {});
}

function swatch(phase) {
  const svg = draw("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
  svg.append(draw("rect", { width: 10, height: 10, rx: 2, class: phase }));
  return svg;
}

// --- destinations ------------------------------------------------------------

/** Flows of one program to one destination as one row: by process, phase and address they are many. */
function groups(data) {
  const found = new Map();
  for (const flow of data.flows) {
    const whose = flow.target ?? flow.container ?? flow.unit ?? flow.cgroup ?? "";
    const key = JSON.stringify([flow.comm, whose, endpoint(flow), flow.proto, flow.scope]);
    let one = found.get(key);
    if (!one) {
      one = { key, place: endpoint(flow), who: flow.comm ?? "not known", whose, target: flow.target, proto: flow.proto ?? "several",
        scope: flow.scope, name: flow.name, address: flow.remote_addr, port: flow.remote_port, purpose: null, unexpected: false, addresses: new Set(), phases: new Set(), pids: new Set(),
        out: 0, in: 0, attempts: 0, denied: 0, last: "" };
      found.set(key, one);
    }
    if (flow.name && flow.remote_addr) one.addresses.add(flow.remote_addr);
    if (flow.phase) one.phases.add(flow.phase);
    if (flow.pid !== null) one.pids.add(flow.pid);
    one.purpose ??= flow.purpose ?? (flow.remote_port === DNS ? "looking names up (DNS)" : null);
    one.unexpected ||= flow.unexpected === true;
    one.out += flow.bytes_out;
    one.in += flow.bytes_in;
    one.attempts += flow.attempts;
    one.denied += flow.denied;
    if (flow.last_seen > one.last) one.last = flow.last_seen;
  }
  return [...found.values()];
}

const SORTS = {
  place: (one) => one.place, who: (one) => one.who, scope: (one) => PLACES[one.scope] ?? one.scope,
  phase: (one) => PHASES.findIndex((phase) => one.phases.has(phase)), out: (one) => one.out, in: (one) => one.in,
  attempts: (one) => one.attempts, last: (one) => one.last,
};

function ordered(rows) {
  const value = SORTS[view.sort];
  const way = view.down ? -1 : 1;
  return rows.sort((a, b) => {
    const one = value(a), other = value(b);
    return one < other ? -way : one > other ? way : a.key < b.key ? -1 : 1;
  });
}

const CELLS = [["place", "Destination"], ["who", "Program"], ["scope", "Where"], ["phase", "During"],
  ["out number", "Sent"], ["in number", "Received"], ["attempts number", "Tries"], ["last number", "Last"]];

function row() {
  const node = make("tr");
  node.setAttribute("role", "row");
  for (const [names, label] of CELLS) {
    const cell = make("td", names);
    cell.dataset.label = label;
    cell.setAttribute("role", "cell");
    if (names === "place") cell.append(make("span", "main say"), make("span", "chip warn", "not expected"),
      lever.make_choice(false), make("span", "purpose say"), make("span", "more say"));
    if (names === "who") cell.append(make("span", "main say"), make("span", "more say"));
    if (names.startsWith("attempts")) cell.append(make("span", "all"), make("span", "more stopped"));
    node.append(cell);
  }
  return node;
}

function show(node, one) {
  const find = (name) => node.querySelector(name);
  put(find(".place .main"), one.place);
  const addresses = [...one.addresses];
  const known = addresses.length > 2 ? count(addresses.length, "address", "addresses") : addresses.join(", ");
  find(".place .chip").hidden = !one.unexpected;
  lever.fill_choice(find(".choice"), one, one.unexpected && one.out > 0);
  put(find(".purpose"), one.purpose ?? "").hidden = !one.purpose;
  put(find(".place .more"), [known, one.proto].filter(Boolean).join(" · "));
  put(find(".who .main"), one.who);
  const pids = [...one.pids];
  const number = pids.length === 1 ? `pid ${pids[0]}` : pids.length ? count(pids.length, "process", "processes") : "";
  put(find(".who .more"), [one.whose, number].filter(Boolean).join(" · "));
  put(find("td.scope"), PLACES[one.scope] ?? one.scope ?? "?");
  const phases = PHASES.filter((phase) => one.phases.has(phase) && (phase !== "unknown" || one.phases.size === 1));
  keep(find("td.phase"), phases, (phase) => phase, (phase) => make("span", "tag", "",
    phase === "unknown" ? ["–"] : [swatch(phase), PHASE_WORDS[phase]]), () => {});
  put(find("td.out"), size(one.out)).title = `${one.out.toLocaleString("en")} bytes`;
  put(find("td.in"), size(one.in)).title = `${one.in.toLocaleString("en")} bytes`;
  put(find("td.attempts .all"), one.attempts.toLocaleString("en"));
  put(find("td.attempts .stopped"), one.denied ? `${one.denied.toLocaleString("en")} stopped` : "").hidden = !one.denied;
  put(find("td.last"), clock(one.last, true));
}

function destinations(data) {
  const some = data.targets.length > 0;
  by("whose").hidden = !some;
  const all = groups(data);
  const wanted = all.filter((one) => view.all || !some || one.target !== null)
    .filter((one) => `${one.place} ${one.who} ${one.whose} ${[...one.addresses].join(" ")} ${one.purpose ?? ""}`.toLowerCase().includes(view.filter));
  keep(by("rows"), ordered(wanted), (one) => one.key, row, show);
  by("flows").hidden = !wanted.length;
  const empty = by("flows-empty");
  empty.hidden = wanted.length > 0;
  const more = some && !view.all ? all.length - wanted.length : 0;
  put(empty, view.filter ? "Nothing here matches the filter."
    : `Nothing, so far.${more ? ` Other programs of this machine did send: “All programs” shows them.` : ""}`);
  const cut = data.count > data.flows.length ? ` · the newest ${data.flows.length} of ${data.count.toLocaleString("en")} flows` : "";
  put(by("shown"), wanted.length ? `${count(wanted.length, "destination")}${cut}` : "");
  return all;
}

function denials(data, all) {
  const found = all.filter((one) => one.denied).sort((a, b) => (a.last < b.last ? 1 : -1)).slice(0, 50);
  keep(by("denials"), found, (one) => one.key, () => make("li", "", "",
    [make("span", "stopped"), make("b", "say"), make("span", "say muted"), make("time"), lever.make_choice(true)]), (node, one) => {
    put(node.querySelector(".stopped"), `${one.denied.toLocaleString("en")}×`);
    put(node.querySelector("b"), one.place);
    put(node.querySelector(".muted"), `${one.proto}, asked for by ${one.who}${one.whose ? ` (${one.whose})` : ""}`);
    const time = node.querySelector("time");
    put(time, clock(one.last, true)).dateTime = one.last;
    lever.fill_choice(node.querySelector(".choice"), one, true);
  });
  const locked = data.targets.some((one) => one.enforced);
  by("denials-empty").hidden = found.length > 0;
  put(by("denials-empty"), locked ? "Nothing had to be stopped, so far." : "No target is locked, so nothing is stopped.");
}

// --- health ------------------------------------------------------------------

function health(data) {
  const on = data.hooks.filter((one) => one.attached).length;
  put(by("hooks-said"), on === data.hooks.length ? `All ${on} are attached, says the kernel.` : `${data.hooks.length - on} of ${data.hooks.length} are not attached.`);
  keep(by("hooks"), data.hooks, (one) => one.hook, () => make("li"), (node, one) => {
    put(node, one.attached ? one.hook : `${one.hook}: not attached`).className = `chip ${one.attached ? "plain" : "bad"}`;
  });
  const lost = Object.entries(data.losses).filter(([, number]) => number > 0);
  put(by("losses-said"), lost.length ? "Something was lost; tattle status says what to turn." : "Nothing was lost.");
  keep(by("losses"), lost, ([reason]) => reason, () => make("li", "", "", [make("b"), make("span")]), (node, [reason, number]) => {
    put(node.firstChild, `${number.toLocaleString("en")} ${reason}`);
    put(node.lastChild, LOST[reason] ?? "");
  });
  keep(by("maps"), data.maps, (one) => one.map, () => {
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: 1, low: 0.8, high: 0.95, optimum: 0 });
    return make("li", "", "", [make("span"), meter, make("span", "number")]);
  }, (node, one) => {
    const [name, meter, number] = node.children;
    const share = one.max_entries ? one.entries / one.max_entries : 0;
    put(name, one.map);
    meter.value = share;
    meter.setAttribute("aria-label", `${one.map}: ${Math.round(share * 100)} percent full`);
    put(number, one.full ? "full" : `${one.entries.toLocaleString("en")} of ${one.max_entries.toLocaleString("en")}`);
  });
  put(by("version"), `tattle ${data.version}, Linux ${data.kernel}.`);
}

// --- the whole ---------------------------------------------------------------

function render(data) {
  const said = headline(data);
  put(by("headline"), said);
  document.title = `tattle: ${said}`;
  put(by("detail"), detail(data));
  put(by("host"), data.host ? `on ${data.host}` : "");
  const told_now = [...notices(data), ...unexpected(groups(data))];
  keep(by("notices"), told_now, ([, text]) => text, () => make("p"), (node, [tone, text]) => { put(node, text).className = `notice say ${tone}`; });
  lever.render(data);
  const found = lever.strangers(data.targets);
  by("targets-empty").hidden = data.targets.length + found.length > 0;
  keep(by("targets"), [...data.targets, ...found], (one) => `${one.title ? "found" : "target"} ${one.target}`,
    (one) => (one.title ? lever.stranger() : card()),
    (node, one) => (one.title ? lever.fill_stranger(node, one) : fill(node, one, data.ill)));
  timeline(data);
  denials(data, destinations(data));
  health(data);
}

function gone(why) {
  document.body.dataset.state = "gone";
  put(by("live"), why);
  const text = view.data
    ? `tattle does not answer since ${clock(view.data.now, true)}. What you see is from then. What was blocked stays blocked without it.`
    : "tattle does not answer. Is it running? What was blocked stays blocked without it.";
  if (!view.data) put(by("headline"), "No answer from tattle.");
  keep(by("notices"), [text], (one) => one, () => make("p", "notice bad"), (node, one) => put(node, one));
}

async function ask() {
  try {
    const answer = await fetch("data.json", { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
    if (answer.status === 401) { location.assign("login"); return; }
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    const data = await answer.json();
    if (data.closing) { gone("stopping"); return; }
    view.data = data;
    document.body.dataset.state = "live";
    put(by("live"), `live · ${clock(data.now, true)}`);
    render(data);
    look_at_the_day(PHASES, PHASE_WORDS);
  } catch (error) {
    gone("no answer");
    if (!(error instanceof TypeError) && error.name !== "TimeoutError") throw error;
  } finally {
    next();
  }
}

let timer = 0;
function next() {
  clearTimeout(timer);
  if (document.visibilityState === "visible") timer = setTimeout(ask, EVERY_MS); // nobody looks: nobody asks
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") ask();
});
by("tools").addEventListener("submit", (event) => event.preventDefault());
by("tools").addEventListener("input", () => {
  view.filter = by("filter").value.trim().toLowerCase();
  view.all = by("tools").elements.whose.value === "all";
  if (view.data) destinations(view.data);
});
by("flows").querySelector("thead").addEventListener("click", (event) => {
  const heading = event.target.closest("th");
  if (!heading || !view.data) return;
  const name = heading.dataset.sort;
  view.down = view.sort === name ? !view.down : !["place", "who", "scope"].includes(name);
  view.sort = name;
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", view.down ? "descending" : "ascending");
  destinations(view.data);
});
lever.start(ask);
ask();
