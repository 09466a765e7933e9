"use strict";
// The browser of attempts, and tables that sort. Whatever comes from the data becomes text (textContent), never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60;
const KINDS = {
  first: "First answer", check: "Second answer", correction: "Correction", retry: "Retried answer",
  feedback: "Criticism", refine: "Refined answer", self_verdict: "Own verdict",
};
const COLOURS = {
  advantage: { full: 2, unit: "", signed: true, ends: ["−2", "0", "+2"] },
  mask: { full: 1, unit: "", signed: false, ends: ["not in the loss", "", "in the loss"] },
  kl: { full: 1, unit: " nats", signed: true, ends: ["−1", "0", "+1 nat"] },
  ratio: { full: Math.log(2), unit: "", signed: true, ends: ["½", "1", "2"] },
  logp: { full: 4, unit: " nats", signed: true, ends: ["−4", "", "0 nats"] },
  none: { full: 1, unit: "", signed: false, ends: [] },
};

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

function number(value, digits = 3) {
  if (value === undefined || value === null) return "–";
  return value.toFixed(digits).replace("-", "−");
}

// --- filters --------------------------------------------------------------------------------------------------------

const state = {
  kind: "", verdict: "", error: "", arm: "", phase: "", search: "", colour: "advantage", method: "", chosen: null, shown: PAGE,
};

function before(item) { return item.before ? DATA.earlier[item.before] : null; }
function armOf(item) { return DATA.runs[item.run].name; }
function phaseOf(item) { return item.phase.startsWith("eval:") ? "evaluation" : "training"; }
function errorsOf(item) { return [item.error, before(item)?.error].filter(Boolean); }
function isRevision(item) { return Boolean(item.before); }

function values(of) { return [...new Set(DATA.items.flatMap(of))].filter(Boolean).sort(); }

function select(form, key, label, options) {
  const box = make("label", "filter", label);
  const input = make("select");
  input.name = key;
  for (const [value, text] of options) {
    const option = make("option", "", text);
    option.value = value;
    input.append(option);
  }
  input.addEventListener("change", () => { state[key] = input.value; update(key); });
  box.append(input);
  form.append(box);
  return input;
}

function any(label, found) { return [["", label], ...found.map((each) => [each, each.replaceAll("_", " ")])]; }

function makeFilters() {
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  select(form, "kind", "Show", [
    ["", "all attempts"],
    ["revision", "with an earlier answer"],
    ...values((item) => item.kind).map((kind) => [kind, (KINDS[kind] || kind).toLowerCase() + "s"]),
  ]);
  select(form, "verdict", "Verdict", any("any", values((item) => item.verdict)));
  select(form, "error", "Kind of error", any("any", values(errorsOf)));
  select(form, "phase", "From", any("training and evaluation", values(phaseOf)));
  if (values(armOf).length > 1) select(form, "arm", "Arm", [["", "any"], ...values(armOf).map((arm) => [arm, arm])]);
  const box = make("label", "filter grows", "Search");
  const search = make("input");
  search.type = "search";
  search.name = "search";
  search.placeholder = "in problems and answers";
  search.addEventListener("input", () => { state.search = search.value.trim().toLowerCase(); update("search"); });
  box.append(search);
  form.append(box);
}

function matches(item) {
  const earlier = before(item);
  if (state.kind && !(state.kind === "revision" ? isRevision(item) : item.kind === state.kind)) return false;
  if (state.verdict && item.verdict !== state.verdict) return false;
  if (state.error && !errorsOf(item).includes(state.error)) return false;
  if (state.arm && armOf(item) !== state.arm) return false;
  if (state.phase && phaseOf(item) !== state.phase) return false;
  if (!state.search) return true;
  const problem = DATA.problems[item.problem];
  const texts = [problem.text, problem.id, item.text, item.answer, earlier?.text, item.id];
  return texts.some((text) => text && text.toLowerCase().includes(state.search));
}

let found = [];

function update(key) {
  if (key === "colour" || key === "method") { showAttempt(); return; }
  found = DATA.items.filter(matches);
  state.shown = PAGE;
  if (!found.includes(state.chosen)) state.chosen = found[0] || null;
  showList();
  showAttempt();
}

// --- the list -------------------------------------------------------------------------------------------------------

function showList() {
  const list = document.getElementById("list");
  const rows = found.slice(0, state.shown).map((item, place) => {
    const row = make("li", item === state.chosen ? "chosen" : "");
    row.dataset.place = place;
    row.append(make("span", `verdict ${item.verdict}`, sign(item.verdict)));
    const text = make("span", "what");
    text.append(make("span", "problem", DATA.problems[item.problem].text));
    const where = `${KINDS[item.kind] || item.kind}, ${item.phase.replace(/^eval:/, "")}, step ${item.step}`;
    text.append(make("span", "where", where));
    row.append(text);
    return row;
  });
  list.replaceChildren(...rows);
  const count = document.getElementById("count");
  count.textContent = `${found.length.toLocaleString("en")} of ${DATA.items.length.toLocaleString("en")}`;
  document.getElementById("more").hidden = found.length <= state.shown;
}

function sign(verdict) { return { correct: "✓", wrong: "✗", ungraded: "·" }[verdict] || "?"; }

function choose(place) {
  if (place < 0 || place >= found.length) return;
  state.chosen = found[place];
  while (place >= state.shown) state.shown += PAGE;
  showList();
  showAttempt();
  scrollToChosen();
}

function scrollToChosen() { // the list alone: the page stays where it is
  const list = document.getElementById("list"), row = list.querySelector(".chosen");
  if (!row) return;
  const top = row.offsetTop - list.offsetTop, bottom = top + row.offsetHeight;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function listen() {
  const list = document.getElementById("list");
  list.addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (!row) return;
    choose(Number(row.dataset.place));
    const attempt = document.getElementById("attempt");
    if (attempt.getBoundingClientRect().top > window.innerHeight * 0.7) attempt.scrollIntoView();
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    choose(found.indexOf(state.chosen) + by);
  });
  document.getElementById("more").addEventListener("click", () => { state.shown += PAGE; showList(); });
}

// --- one attempt ----------------------------------------------------------------------------------------------------

function unpack(runs) { return runs.flatMap(([count, value]) => Array(count).fill(value)); }

function creditOf(item) { return (item.credit || {})[state.method || methodOf(item)]; }

function methodOf(item) {
  const own = DATA.runs[item.run].method;
  return own in (item.credit || {}) ? own : Object.keys(item.credit || {})[0] || "";
}

function tokenValues(item) {
  const credit = creditOf(item);
  const estimator = item.kl && item.kl[credit?.estimator] ? credit.estimator : "k3";
  return {
    advantage: credit && unpack(credit.advantage),
    mask: credit && unpack(credit.mask),
    beta: credit && unpack(credit.beta),
    kl: item.kl && item.kl[estimator],
    estimator,
    ratio: item.ratio,
    logp: item.logp,
    none: null,
  };
}

function strength(value) {
  const { full } = COLOURS[state.colour];
  const scaled = (state.colour === "ratio" ? Math.log(value) : value) / full;
  return Math.max(-1, Math.min(1, scaled));
}

function makeTokens(item, told, from, to, marks) {
  const letters = Array.from(item.text);
  const box = make("div", "text tokens");
  const colours = told[state.colour];
  if (!item.ends) {
    addMarked(box, letters, from, to, marks);
    return box;
  }
  let at = 0;
  item.ends.forEach((length, i) => {
    const start = at;
    at += length;
    const inside = length ? start < to && at > from : start === to && to === letters.length;
    if (!inside) return;
    const token = make("span", "token");
    token.dataset.i = i;
    if (colours) {
      const s = strength(colours[i]);
      if (s) {
        token.classList.add(s > 0 ? "up" : "down");
        token.style.setProperty("--s", Math.abs(s).toFixed(3));
      }
    }
    if (length) addMarked(token, letters, Math.max(start, from), Math.min(at, to), marks);
    else if (i === item.ends.length - 1) token.append(make("span", "end", item.finish === "stop" ? "∎" : ""));
    box.append(token);
  });
  return box;
}

function addMarked(parent, letters, from, to, marks) {
  let at = from;
  for (const [start, end] of marks) {
    const low = Math.max(start, at), high = Math.min(end, to);
    if (low >= high) continue;
    if (low > at) parent.append(letters.slice(at, low).join(""));
    parent.append(make("mark", "", letters.slice(low, high).join("")));
    at = high;
  }
  if (at < to) parent.append(letters.slice(at, to).join(""));
}

function pane(title, verdict, answer) {
  const box = make("section", "pane");
  const head = make("h4", "", title);
  if (verdict) head.append(make("span", `verdict ${verdict}`, `${sign(verdict)} ${verdict.replaceAll("_", " ")}`));
  if (answer !== undefined && answer !== null) head.append(make("span", "answer", answer));
  box.append(head);
  return box;
}

function solutionStart(item) { // the line break after the heading stands with the heading
  const rest = Array.from(item.text).slice(item.cut || 0).join("");
  return item.cut ? item.cut + rest.length - rest.trimStart().length : 0;
}

function panes(item, told) {
  const earlier = before(item), marks = item.diff ? item.diff[1] : [], length = Array.from(item.text).length;
  const boxes = [], start = solutionStart(item);
  if (earlier) {
    const box = pane("Earlier answer", earlier.verdict, earlier.answer), text = make("div", "text");
    const letters = Array.from(earlier.text);
    addMarked(text, letters, 0, letters.length, item.diff[0]);
    box.append(text);
    if (earlier.error) box.append(make("p", "kind", earlier.error));
    boxes.push(box);
  }
  if (item.cut !== null && item.cut !== undefined) {
    const box = pane("Reflection");
    box.append(makeTokens(item, told, 0, start, []));
    boxes.push(box);
  }
  const box = pane(KINDS[item.kind] || item.kind, item.verdict, item.answer);
  box.append(makeTokens(item, told, start, length, marks));
  if (item.error) box.append(make("p", "kind", item.error));
  if (item.reason) box.append(make("p", "kind", item.reason));
  boxes.push(box);
  return boxes;
}

function facts(item) {
  const run = DATA.runs[item.run];
  const list = [armOf(item), `seed ${run.seed}`, `${item.phase.replace(/^eval:/, "evaluation ")}, step ${item.step}`];
  if (item.group) list.push(`its group: ${item.group[0]} of ${item.group[1]} right`);
  if (item.decision) list.push(`pool: ${item.decision.replaceAll("_", " ")}`);
  if (item.finish === "length") list.push("cut off at the token limit");
  list.push(`${item.tokens} tokens`);
  const line = make("p", "facts");
  list.forEach((text) => line.append(make("span", "", text)));
  return line;
}

function showAttempt() {
  const box = document.getElementById("attempt"), item = state.chosen;
  if (!item) {
    box.replaceChildren(make("p", "nothing", "No attempt is like that."));
    return;
  }
  if (state.method && !(state.method in (item.credit || {}))) state.method = "";
  const told = tokenValues(item), problem = DATA.problems[item.problem];
  const head = make("div", "asked-of");
  head.append(make("h3", "", "Problem"), make("div", "text", problem.text));
  head.append(make("p", "reference", `Reference answer: ${problem.answer}`));
  const columns = make("div", "panes");
  columns.append(...panes(item, told));
  const readout = make("p", "readout screen", "Point at a token, or tap it, to read its numbers.");
  columns.addEventListener("pointerover", (event) => read(event, item, told, readout));
  columns.addEventListener("click", (event) => read(event, item, told, readout));
  box.replaceChildren(facts(item), head, colouring(item, told), columns, readout);
}

function colouring(item, told) {
  const bar = make("div", "colouring");
  const names = { advantage: "advantage", mask: "mask", kl: `KL (${told.estimator})`, ratio: "ratio", logp: "log-prob", none: "nothing" };
  const options = Object.entries(names).map(([key, text]) => {
    return [key, told[key] || key === "none" ? text : `${text}: not known here`];
  });
  select(bar, "colour", "Colour tokens by", options).value = state.colour;
  const credited = Object.keys(item.credit || {});
  if (credited.length) {
    const own = DATA.runs[item.run].method;
    const methods = credited.map((name) => [name, name === own ? `${name} (trained it)` : name]);
    select(bar, "method", "Credit by", methods).value = state.method || methodOf(item);
  }
  const { ends } = COLOURS[state.colour];
  if (told[state.colour]) {
    const legend = make("span", `legend ${state.colour}`);
    ends.forEach((text) => legend.append(make("span", "", text)));
    bar.append(legend);
  } else if (state.colour !== "none") {
    bar.append(make("span", "missing", why(item)));
  }
  return bar;
}

function why(item) {
  if (phaseOf(item) === "evaluation") return "An answer to an evaluation earns nothing: no token of it is trained.";
  if (state.colour === "kl" || state.colour === "ratio") return "No model was at hand to score these tokens; see below.";
  return "The credit of this step cannot be computed anew; see below.";
}

function read(event, item, told, readout) {
  const token = event.target.closest(".token");
  if (!token) return;
  const i = Number(token.dataset.i), parts = [["log-prob", number(told.logp[i])]];
  if (told.advantage) {
    parts.push(["advantage", number(told.advantage[i])], ["in the loss", told.mask[i] ? "yes" : "no"]);
    parts.push(["KL coefficient", String(told.beta[i])]);
  }
  if (told.kl) parts.push([`KL (${told.estimator})`, number(told.kl[i], 4)]);
  if (told.ratio) parts.push(["ratio", number(told.ratio[i])]);
  readout.replaceChildren(make("code", "", token.textContent.replaceAll("\n", "⏎") || "end"));
  for (const [name, text] of parts) {
    const part = make("span", "part", `${name} `);
    part.append(make("b", "", text));
    readout.append(part);
  }
}

// --- tables and files -----------------------------------------------------------------------------------------------

function sortKey(cell) {
  const text = cell.textContent.trim().replaceAll(",", "").replace("−", "-");
  const match = text.match(/^[<[]?\s*([+-]?\d+(\.\d+)?)/);
  return match ? Number(match[1]) : null;
}

function sortBy(table, column, button) {
  const head = button.closest("th"), body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row.cells[column].textContent, row]);
  rows.sort(([a, textA], [b, textB]) => {
    if ((a === null) !== (b === null)) return a === null ? 1 : -1; // what is no number comes last, either way
    const order = a === null ? textA.localeCompare(textB, "en", { numeric: true }) : a - b;
    return down ? -order : order;
  });
  body.append(...rows.map(([, , row]) => row));
}

document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => sortBy(table, column, button));
  });
});

document.querySelectorAll("button.save").forEach((button) => {
  button.addEventListener("click", () => {
    const text = button.closest("details").querySelector("pre").textContent, link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/yaml" }));
    link.download = button.dataset.file;
    link.click();
    URL.revokeObjectURL(link.href);
  });
});

if (document.getElementById("filters")) {
  makeFilters();
  listen();
  found = DATA.items.filter(matches);
  const telling = (item) => isRevision(item) && item.verdict === "correct" && creditOf(item);
  choose(Math.max(0, found.findIndex(telling)));
}
