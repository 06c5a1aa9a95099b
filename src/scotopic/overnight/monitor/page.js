// Shows what the server sends; sends only what a button asks for. Texts go in as text, never as HTML.
const $ = (id) => document.getElementById(id);
const key = keyOfSession();
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#1565a8", "#c2571a", "#2a8a57", "#8a3ba3", "#a38a1a", "#4a4ab0"];
let chosen = new URLSearchParams(location.search).get("run") || "";
let source = null, state = null, shownField = "", updates = 0;

// The token is in the address only until the page has its key for it.
if (location.search.includes("token=")) history.replaceState(null, "", chosen ? `/?run=${encodeURIComponent(chosen)}` : "/");
$("readonly").hidden = key !== "";

// What the page asks with. It comes once, for the token, and is kept for this address and port alone, which a cookie is not.
function keyOfSession() {
  const [given, session] = ["key", "session"].map((name) => document.querySelector(`meta[name="scotopic-${name}"]`).content);
  if (session === "former") $("former").hidden = false;
  if (session !== "known") return "";
  try {
    if (given) localStorage.setItem("scotopic-key", given);
    return given || localStorage.getItem("scotopic-key") || "";
  } catch {  // this browser keeps nothing
    return given;
  }
}

function connect() {
  if (source) source.close();
  source = new EventSource(`/api/events?run=${encodeURIComponent(chosen)}`);
  source.onopen = () => say("connected", false);
  source.onmessage = (event) => { updates += 1; document.body.dataset.updates = updates; show(JSON.parse(event.data)); };
  source.onerror = () => say("no connection to the monitor; the run does not need it", true);
}

function say(text, lost) {
  $("connection").textContent = text;
  $("connection").className = lost ? "lost" : "";
}

function complain(text) {
  $("told").textContent = text;
  $("told").hidden = text === "";
}

async function ask(method, path, body) {
  complain("");
  try {
    const headers = { Authorization: `Bearer ${key}` };
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      complain(typeof told.detail === "string" ? told.detail : `refused: ${answer.status}`);
    }
  } catch {
    complain("the monitor does not answer");
  }
}

function show(told) {
  if (told.error) return complain(told.error);
  state = told;
  showRuns(told.runs);
  showQueue(told.queue);
  if (!told.run && told.runs.length) {  // none chosen, or the chosen one is gone
    chosen = told.runs[0].id;
    return connect();
  }
  if (told.run) showRun(told.run);
}

function showRuns(runs) {
  options($("runs"), runs.map((run) => [run.id, run.name]), chosen);
}

function options(select, pairs, value) {
  const text = JSON.stringify(pairs);
  if (select.dataset.is !== text) {
    select.dataset.is = text;
    select.replaceChildren(...pairs.map(([key, name]) => new Option(name, key)));
  }
  if (value && select.value !== value) select.value = value;
}

function showRun(run) {
  $("run-name").textContent = run.name;
  document.title = `${run.name}: ${run.state.replaceAll("_", " ")}`;
  $("state").textContent = run.state.replaceAll("_", " ") + (run.message ? `: ${run.message}` : "");
  $("state").className = ["failed", "interrupted", "cannot be read"].includes(run.state) ? "bad" : "";
  for (const button of document.querySelectorAll("[data-ask]")) {
    const fits = { pause: run.state === "running", resume: run.state === "paused" }[button.dataset.ask] ?? true;
    button.disabled = !(key && run.is_running && fits);
  }
  if (!run.sites) return;
  $("progress").max = run.sites.planned;
  $("progress").value = run.sites.finished;
  const frames = run.frames, odd = (count) => (count ? "bad" : "");
  figures([
    ["Sites", `${run.sites.finished} of ${run.sites.planned}`],
    ["Frames", `${number(frames.written)} written of ${number(frames.planned)}`],
    ["Skipped", number(frames.skipped), odd(frames.skipped)],
    ["Left out by rules", number(frames.left_out)],
    ["Flagged", number(frames.flagged ?? 0), odd(frames.flagged)],
    ["Sites taken anew", number(run.taken_anew)],
    ["Wrong light", number(run.wrong_light), odd(run.wrong_light)],
    ["Light given", `${number(run.sample_dose_s)} s at full power`],
    ["Light", run.light],
    ["Disk", `${gigabytes(run.free_bytes)} free` + (run.bytes_left ? `, ${gigabytes(run.bytes_left)} to go at most` : ""), odd(run.bytes_left > run.free_bytes)],
    ["Time to finish", run.state === "running" ? duration(run.seconds_left) : "-"],
    ["Heard of", run.heartbeat ? new Date(run.heartbeat).toLocaleTimeString() : "-"],
  ]);
  $("stages").replaceChildren(...run.stages.map((line) => element("li", line)));
  $("report").hidden = !run.report;
  if (run.report) $("report").href = `/api/runs/${run.id}/report?of=${run.report}`;
  options($("features"), Object.entries(run.features), $("features").value || "sites");
  plate(run);
  field(run);
  curves(run.training);
}

function figures(rows) {
  const list = $("figures");
  if (list.childElementCount !== 2 * rows.length) list.replaceChildren(...rows.flatMap(() => [element("dt"), element("dd")]));
  rows.forEach(([name, value, kind], i) => {
    write(list.children[2 * i], name, "");
    write(list.children[2 * i + 1], value, kind || "");
  });
}

function write(node, text, kind) {
  if (node.textContent !== text) node.textContent = text;
  if (node.className !== kind) node.className = kind;
}

function element(name, text = "", kind = "") {
  const node = document.createElement(name);
  node.textContent = text;
  node.className = kind;
  return node;
}

function drawn(name, values, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function plate(run) {
  const wells = Object.entries(run.wells), feature = $("features").value || "sites";
  const rows = wells.map(([, well]) => well.row), columns = wells.map(([, well]) => well.column);
  const [top, left] = [Math.min(...rows), Math.min(...columns)], size = 30, edge = 26;
  const width = edge + size * (Math.max(...columns) - left + 1), height = edge + size * (Math.max(...rows) - top + 1);
  const values = wells.map(([, well]) => well[feature]).filter((value) => value != null);
  const low = feature === "sites" || feature === "skipped" ? 0 : Math.min(...values);
  const high = feature === "sites" ? Math.max(...wells.map(([, well]) => well.planned)) : Math.max(...values, low + 1e-9);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Plate: ${run.features[feature]}` });
  svg.style.maxWidth = `${1.5 * width}px`;
  for (const row of new Set(rows)) svg.append(drawn("text", { x: 4, y: edge + size * (row - top) + 19 }, letters(row)));
  for (const column of new Set(columns)) svg.append(drawn("text", { x: edge + size * (column - left) + 15, y: 16, "text-anchor": "middle" }, column + 1));
  for (const [name, well] of wells) {
    const value = well[feature], share = value == null ? null : (value - low) / (high - low || 1);
    const circle = drawn("circle", { cx: edge + size * (well.column - left) + 15, cy: edge + size * (well.row - top) + 15, r: 13, class: well.skipped ? "well odd" : "well", "data-well": name });
    if (share !== null && !(feature === "sites" && value === 0)) circle.style.fill = shade(share);
    circle.append(drawn("title", {}, wellText(name, well, run.features, feature)));
    svg.append(circle);
  }
  $("plate").replaceChildren(svg);
  const scale = values.length ? `${short(low)} to ${short(high)}` : "nothing yet";
  if (!$("well").dataset.held) $("well").textContent = `${run.features[feature]}: ${scale}`;
}

// From dark to bright, even in lightness (viridis, by five of its colours).
function shade(share) {
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return `rgb(${stops[i].map((from, k) => Math.round(from + (stops[i + 1][k] - from) * (at - i))).join()})`;
}

function wellText(name, well, features, feature) {
  const more = feature === "sites" || well[feature] == null ? "" : `; ${features[feature]}: ${short(well[feature])}`;
  return `${name}: ${well.sites} of ${well.planned} sites` + (well.skipped ? `, ${well.skipped} frames skipped` : "") + more;
}

function letters(row) {
  return row < 26 ? String.fromCharCode(65 + row) : letters(Math.floor(row / 26) - 1) + letters(row % 26);
}

function field(run) {
  const name = run.field ? `${run.id} ${run.field}` : "";
  if (name === shownField) return;
  shownField = name;
  $("field").hidden = !run.field;
  $("field-name").textContent = run.field || "No image yet";
  $("field").alt = run.field;
  if (run.field) $("field").src = `/api/runs/${run.id}/field.png?of=${encodeURIComponent(run.field)}`;
}

function curves(training) {
  const checks = training.checks, box = $("curves");
  if (!checks.length) {
    box.replaceChildren();
    $("curves-legend").textContent = training.state ? `training: ${training.state}` : "No training yet";
    return;
  }
  const levels = [...new Set(checks.flatMap((check) => Object.keys(check.f1)))], width = 420, height = 220, left = 34, bottom = 24;
  const last = checks.at(-1).step || 1, all = checks.flatMap((check) => Object.values(check.f1)).filter((value) => value != null);
  const low = Math.max(0, Math.floor(10 * Math.min(...all)) / 10), x = (step) => left + ((width - left - 8) * step) / last;
  const y = (value) => 8 + (height - bottom - 8) * (1 - (value - low) / (1 - low || 1));
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "F1 on the validation wells against steps" });
  for (const value of [low, (low + 1) / 2, 1]) {
    svg.append(drawn("line", { class: "axis", x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  svg.append(drawn("text", { x: left, y: height - 6 }, "0"), drawn("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, `${number(last)} steps`));
  levels.forEach((level, i) => {
    const points = checks.filter((check) => check.f1[level] != null).map((check) => `${x(check.step).toFixed(1)},${y(check.f1[level]).toFixed(1)}`);
    svg.append(drawn("polyline", { points: points.join(" "), fill: "none", stroke: COLOURS[i % COLOURS.length], "stroke-width": 2 }));
    if (points.length === 1) svg.append(drawn("circle", { cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3, fill: COLOURS[i % COLOURS.length] }));
  });
  box.replaceChildren(svg);
  $("curves-legend").replaceChildren("F1 on the validation wells: ", ...levels.flatMap((level, i) => {
    const name = element("b", `${level} ${(checks.at(-1).f1[level] ?? NaN).toFixed(3)}`);
    name.style.color = COLOURS[i % COLOURS.length];
    return [name, i < levels.length - 1 ? ", " : `; loss ${checks.at(-1).loss.toFixed(3)}`];
  }));
}

function showQueue(queue) {
  const served = queue.served_by ? `done by ${queue.served_by}` : "no service does the jobs: scotopic service run";
  $("queue-state").textContent = (queue.paused ? "paused; " : "") + served;
  $("queue-state").className = queue.served_by ? "" : "bad";
  for (const button of document.querySelectorAll("[data-queue]")) button.disabled = !key || (button.dataset.queue === "pause") === queue.paused;
  const text = JSON.stringify(queue.jobs);
  if ($("jobs").dataset.is === text) return;
  $("jobs").dataset.is = text;
  $("jobs").replaceChildren(...queue.jobs.map(jobRow));
}

function jobRow(job) {
  const row = document.createElement("tr"), last = element("td");
  const when = job.ended || job.begun || (job.state === "scheduled" ? job.at : null);
  const bad = ["failed", "incomplete", "missed", "unreadable"].includes(job.state) ? "bad" : "";
  row.append(
    element("td", String(job.number)), element("td", job.seen, bad),
    element("td", (when ? new Date(when).toLocaleString() : "") + (job.days ? `, every ${job.days}` : "")),
    element("td", job.what), element("td", job.message || (job.after ? `after job ${job.after}` : "")), last);
  const isOpen = job.state === "waiting" || job.state === "scheduled";
  const buttons = [
    ["Show", job.run && job.kind !== "segment", () => choose(job.run), true],
    [job.seen === "paused" ? "Release" : "Hold", isOpen, () => ask("POST", `/api/queue/${job.number}/${job.seen === "paused" ? "release" : "hold"}`)],
    ["Cancel", job.state === "running", () => confirm(`End job ${job.number}?`) && ask("POST", `/api/queue/${job.number}/cancel`)],
    ["Go on", !isOpen && !["running", "done", "unreadable"].includes(job.state), () => ask("POST", `/api/queue/${job.number}/retry`)],
    ["Remove", job.state !== "running", () => confirm(`Take job ${job.number} out of the queue?`) && ask("DELETE", `/api/queue/${job.number}`)],
  ];
  for (const [name, fits, act, free] of buttons.filter(([, fits]) => fits)) {
    const button = element("button", name);
    button.disabled = !key && !free;
    button.onclick = act;
    last.append(button, " ");
  }
  return row;
}

function choose(id) {
  chosen = id;
  history.replaceState(null, "", `/?run=${encodeURIComponent(id)}`);
  connect();
}

const number = (value) => (value ?? 0).toLocaleString("en", { maximumSignificantDigits: 5 });
const short = (value) => Number(value.toPrecision(3)).toLocaleString("en");
const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 0)} GB`;
function duration(seconds) {
  if (seconds == null) return "not known yet";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

$("runs").onchange = (event) => choose(event.target.value);
$("features").onchange = () => state?.run && plate(state.run);
for (const button of document.querySelectorAll("[data-ask]")) {
  button.onclick = () => {
    const request = button.dataset.ask;
    if (request === "cancel" && !confirm("End the run before its next exposure? The same command goes on with it.")) return;
    ask("POST", `/api/runs/${chosen}/ask`, { request });
  };
}
for (const button of document.querySelectorAll("[data-queue]")) button.onclick = () => ask("POST", `/api/queue/${button.dataset.queue}`);
connect();
