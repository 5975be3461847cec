// The last day of each target, as its history has it: bytes by hour and phase, denials, and each contact in words.

import { by, clock, count, draw, keep, list, make, put, size, sum } from "./parts.js";

const HOUR_MS = 3_600_000, HOURS = 24;
const WIDE = 24, TALL = 66, GAP = 4, MARK = 5; // of one hour, of the bars, and of what says that something was stopped
const EVERY_MS = 20_000;

const bytes = (hour) => sum(Object.values(hour.phases));

/** Twenty-four hours that end with the present one, each with what is known of it. */
function hours(one, data) {
  const last = Math.floor(new Date(data.until).getTime() / HOUR_MS) * HOUR_MS;
  const known = new Map(one.hours.map((hour) => [new Date(hour.hour).getTime(), hour]));
  const gaps = data.gaps.filter((gap) => !gap.counted).map((gap) => [new Date(gap.start).getTime(), new Date(gap.end).getTime()]);
  return Array.from({ length: HOURS }, (_, index) => {
    const start = last - (HOURS - 1 - index) * HOUR_MS;
    const unseen = gaps.some(([from, to]) => from <= start && to >= Math.min(start + HOUR_MS, new Date(data.until).getTime()));
    return { start, unseen, phases: {}, denied: 0, ...known.get(start) };
  });
}

function paint(found, phases) {
  const peak = Math.max(1, ...found.map(bytes));
  return found.flatMap((hour, index) => {
    const place = { x: index * WIDE + 1, width: WIDE - 2 };
    const marks = [];
    if (hour.unseen) marks.push(draw("rect", { ...place, y: 0, height: TALL, class: "none" }));
    let top = TALL;
    for (const phase of phases.filter((name) => hour.phases[name])) {
      const height = Math.max(2, (hour.phases[phase] / peak) * (TALL - 6));
      top -= height;
      marks.push(draw("rect", { ...place, y: top.toFixed(2), height: height.toFixed(2), class: phase }));
    }
    if (hour.denied) marks.push(draw("rect", { ...place, y: TALL + GAP, height: MARK, class: "denied" }));
    return marks;
  });
}

function said(found, phases, words) {
  const parts = phases.map((phase) => [phase, sum(found.map((hour) => hour.phases[phase] ?? 0))]).filter(([, some]) => some)
    .map(([phase, some]) => `${size(some)} during ${words[phase]}`);
  const stopped = sum(found.map((hour) => hour.denied));
  const unseen = found.filter((hour) => hour.unseen).length;
  return [
    parts.length ? `${list(parts)} left` : "nothing seen leaving",
    ...(stopped ? [`${count(stopped, "try", "tries")} stopped`] : []),
    ...(unseen ? [`${count(unseen, "hour")} not seen`] : []),
  ].join("; ");
}

function contact() {
  return make("li", "", "", [make("time"), make("b", "say"), make("span", "why say"), make("span", "muted how")]);
}

function fill_contact(node, one) {
  const [time, place, why, how] = node.children;
  put(time, clock(one.last_seen)).dateTime = one.last_seen;
  put(place, one.place);
  put(why, one.purpose ?? (one.unexpected ? "not expected: its profile does not name this" : "what for is not known"));
  const tried = one.attempts > 1 ? `${one.attempts.toLocaleString("en")} times, ` : "";
  put(how, `${tried}${size(one.bytes_out)} sent${one.denied ? `, ${one.denied.toLocaleString("en")} stopped` : ""}`);
}

/** Show the day; `phases` in their order, each with its word in `words`. */
function render(data, phases, words) {
  const some = data.targets.filter((one) => one.hours.length || one.contacts.length);
  by("day-section").hidden = !data.targets.length;
  by("day-empty").hidden = some.length > 0 && !data.error;
  put(by("day-empty"), data.error ? `${data.error}.` : "Nothing was seen leaving for a target in the last 24 hours.");
  keep(by("days"), some, (one) => one.target, () => {
    const svg = draw("svg", { viewBox: `0 0 ${WIDE * HOURS} ${TALL + GAP + MARK}`, preserveAspectRatio: "none", role: "img" });
    const axis = make("p", "axis", "", ["24 h ago", "16", "8", "now"].map((text) => make("span", "", text)));
    axis.setAttribute("aria-hidden", "true");
    return make("div", "lane", "", [make("header", "", "", [make("b", "say"), make("span", "muted")]), svg, axis,
      make("ul", "lines contacts")]);
  }, (node, one) => {
    const found = hours(one, data), text = said(found, phases, words);
    put(node.querySelector("b"), one.target);
    put(node.querySelector("header .muted"), text);
    const svg = node.querySelector("svg");
    svg.setAttribute("aria-label", `${one.target}, the last 24 hours: ${text}`);
    svg.replaceChildren(...paint(found, phases));
    keep(node.querySelector("ul"), one.contacts, (each) => JSON.stringify([each.place, each.purpose]), contact, fill_contact);
  });
}

let asked = 0;

/** Ask for the day again, a while after the last time. */
export async function look(phases, words) {
  if (performance.now() - asked < EVERY_MS && asked) return;
  asked = performance.now();
  try {
    const answer = await fetch("day.json", { cache: "no-store" });
    if (!answer.ok) return;
    const data = await answer.json();
    if (data.error) asked = 0;
    render(data, phases, words);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // no answer: the page says so already
  }
}
