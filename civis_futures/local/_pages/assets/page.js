// The page of one job, one run, or all runs: which one, the address says. All that comes from the
// platform is put into the page as text, never as HTML.
"use strict";

const PASS = "civis-futures-pass";
const PAUSE = 1000; // milliseconds between two questions, while the page is seen
const MOST_LINES = 5000; // of a log in the page; the oldest go

const main = document.getElementById("main");
const notice = document.getElementById("notice");
let lastLine = null; // the id of the newest line of the log that is shown

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function tell(message) {
  notice.textContent = message;
  notice.hidden = !message;
}

async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${localStorage.getItem(PASS) || ""}` };
  const response = await fetch(`/_local/page/${path}`, { headers, ...options });
  const body = await response.json();
  if (response.ok) return body;
  const error = new Error(body.error);
  error.status = response.status;
  throw error;
}

// The ticket is in the fragment, and taken out of the address before it is used.
async function enter() {
  const found = location.hash.match(/^#ticket=(.+)$/);
  if (!found) return;
  history.replaceState(null, "", location.pathname);
  const body = JSON.stringify({ ticket: decodeURIComponent(found[1]) });
  try {
    const { pass } = await ask("pass", { method: "POST", body });
    localStorage.setItem(PASS, pass);
  } catch (error) {
    if (!localStorage.getItem(PASS)) throw error;
  }
}

function duration(seconds) {
  if (seconds === null || seconds < 0) return "";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function clock(moment) {
  return moment === null ? "" : new Date(moment * 1000).toLocaleTimeString();
}

function waited(run, now) {
  return duration((run.started ?? run.finished ?? now) - run.created);
}

function ran(run, now) {
  return run.started === null ? "" : duration((run.finished ?? now) - run.started);
}

function memory(run) {
  const used = run.memory === null ? "" : `${run.memory} of `;
  return run.allowed ? `${used}${run.allowed} MB` : "";
}

function state(run) {
  return element("span", { class: `state ${run.state}` }, run.state);
}

function link(run) {
  return element("a", { href: `/scripts/${run.kind}s/${run.job}/runs/${run.id}` }, run.id);
}

function table(runs, now) {
  const columns = ["run", "state", "job", "created", "waited", "ran", "memory", "tasks", "last task", "where"];
  const numbers = new Set(["created", "waited", "ran", "memory", "tasks"]);
  const cell = (name, text, kind = "td") =>
    element(kind, { class: numbers.has(name) ? "number" : name === "job" ? "name" : "" }, text);
  const head = element("tr", {}, ...columns.map((name) => cell(name, name, "th")));
  const rows = runs.map((run) => {
    const cells = [
      link(run), state(run), run.name, clock(run.created), waited(run, now), ran(run, now),
      memory(run), run.tasks, run.task, run.where,
    ];
    return element("tr", {}, ...cells.map((text, at) => cell(columns[at], text)));
  });
  const whole = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "scroll" }, whole);
}

function drawing(title, seconds, series) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const most = Math.max(1, ...series.flatMap(([, values]) => values));
  for (const [name, values] of series) {
    const path = document.createElementNS(space, "path");
    const last = Math.max(values.length - 1, 1);
    const points = values.map((value, at) => `${(100 * at) / last} ${97 - (94 * value) / most}`);
    path.setAttribute("d", `M${points.join("L")}`);
    path.setAttribute("class", name);
    svg.append(path);
  }
  const legend = series.map(([name, values]) =>
    element("span", { class: `state ${name}` }, `${name}: ${values.at(-1)}`));
  const said = `${title}, the last ${duration(seconds)}; at most ${most}`;
  return element("figure", {}, svg, element("figcaption", {}, said, ...legend));
}

function showAll(found) {
  const order = ["queued", "running", "succeeded", "failed", "cancelled"];
  const sums = order.map((name) =>
    element("li", { class: `state ${name}` }, `${found.counts[name] || 0} ${name}`));
  const { chart } = found;
  main.replaceChildren(
    element("ul", { class: "sums" }, ...sums),
    drawing("Runs", chart.seconds, [["queued", chart.queued], ["running", chart.running]]),
    drawing("Tasks that have begun", chart.seconds, [["begun", chart.begun]]),
    table(found.runs, found.now),
  );
}

function showJob(found) {
  document.getElementById("place").textContent = found.name;
  document.title = found.name;
  main.replaceChildren(table(found.runs, found.now));
}

function showRun(found) {
  const { run, now } = found;
  document.getElementById("place").textContent = `${run.name}, run ${run.id}`;
  document.title = `run ${run.id}: ${run.state}`;
  const facts = [
    ["state", state(run)], ["waited", waited(run, now)], ["ran", ran(run, now)],
    ["memory", memory(run)], ["tasks", run.tasks],
    ["last task", run.task], ["where", run.where],
  ];
  const list = element("dl", {});
  for (const [name, text] of facts) {
    if (text !== "") list.append(element("dt", {}, name), element("dd", {}, text));
  }
  let log = document.getElementById("log");
  if (log) {
    document.querySelector("dl").replaceWith(list);
  } else {
    log = element("pre", { id: "log", tabindex: "0", "aria-label": "log" });
    main.replaceChildren(list, log);
    if (found.left_out) log.append(element("time", {}, `${found.left_out} earlier lines\n`));
  }
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
  for (const [id, moment, level, text] of found.lines) {
    lastLine = id;
    // What workers print between tasks is not the user's, on whichever stream.
    const kind = text.startsWith("civis_futures: ") ? "mark" : level === "error" ? "error" : "";
    const line = element("span", { class: kind }, text, "\n");
    log.append(element("time", {}, `${clock(moment)} `), line);
  }
  while (log.childNodes.length > 2 * MOST_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function view() {
  const run = location.pathname.match(/\/runs\/(\d+)\/?$/);
  if (run) {
    return async () => {
      const after = lastLine === null ? "" : `?after=${lastLine}`;
      const found = await ask(`runs/${run[1]}${after}`);
      showRun(found);
      const more = found.lines.length === 1000;
      return { more, over: found.run.finished !== null && !found.lines.length };
    };
  }
  const job = location.pathname.match(/^\/(?:scripts\/\w+|jobs)\/(\d+)\/?$/);
  if (job) return async () => showJob(await ask(`jobs/${job[1]}`));
  return async () => showAll(await ask("overview"));
}

const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
const seen = () =>
  new Promise((wake) => {
    if (!document.hidden) wake();
    else document.addEventListener("visibilitychange", wake, { once: true });
  });

async function live() {
  const show = view();
  for (;;) {
    let outcome = {};
    try {
      outcome = (await show()) || {};
      tell("");
    } catch (error) {
      if (error.status === 401) {
        tell("This page is opened once by the link that LocalPlatform.page gives, or the display of an " +
          "executor; after that, all links of this platform work in this browser.");
        return;
      }
      if (error.status === 404) {
        tell(error.message);
        return;
      }
      tell("The platform does not answer; perhaps it has ended. What is shown is the last that was seen.");
    }
    if (outcome.over) return;
    await sleep(outcome.more ? 0 : PAUSE);
    await seen();
  }
}

enter().then(live, (error) => tell(`${error.message} LocalPlatform.page, and the display of an executor, give new links.`));
