// Elements and texts. Nothing here, or anywhere else, makes HTML of a text.
const SVG = "http://www.w3.org/2000/svg";

function put(element, options, children) {
  for (const [key, value] of Object.entries(options || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (key === "style") for (const [name, set] of Object.entries(value)) element.style.setProperty(name, set);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children || []) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}
const el = (tag, options, children) => put(document.createElement(tag), options, children);
const svg = (tag, options, children) => put(document.createElementNS(SVG, tag), options, children);
const bdi = (text, options) => el("bdi", { ...options, text });
const byId = (id) => document.getElementById(id);

const plain = (count) => count.toLocaleString("en-US");
const countOf = (count, one, many) => `${plain(count)} ${count === 1 ? one : many || one + "s"}`;

function bytes(count) {
  const units = ["bytes", "KB", "MB", "GB", "TB", "PB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return unit === 0 ? `${plain(count)} bytes` : `${value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

function value(amount) {
  if (amount === null || amount === undefined) return "";
  if (!Number.isFinite(amount)) return Number.isNaN(amount) ? "NaN" : amount > 0 ? "∞" : "−∞";
  const size = Math.abs(amount);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return amount.toExponential(3);
  return Number(amount.toPrecision(5)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

// 99.96 % is not 100 %.
function percent(share) {
  const digits = (share > 0 && share < 0.1) || (share > 0.99 && share < 1) ? 1 : 0;
  const size = share < 1 ? Math.min(share * 100, 99.9) : share * 100;
  return `${size.toFixed(digits)} %`;
}

// The short form of a name, which may be broken after each of its separators.
const breakable = (name) => el("bdi", { title: name.name }, name.short.split(/(?<=[/._-])/).flatMap((part, at) => (at ? [el("wbr"), part] : [part])));
const date = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`;
const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);

// An age when the page was loaded. A clock that is behind counts as the clock of the report.
const viewed = Math.max(Date.now() / 1000, DATA.time);

function age(seconds) {
  const past = viewed - seconds;
  if (past < 0) return "later than the report";
  const steps = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [86400 * 60, 86400, "days"], [86400 * 730, 86400 * 30.44, "months"]];
  for (const [limit, unit, word] of steps) if (past < limit) return `${Math.floor(past / unit)} ${word} ago`;
  return `${Math.floor(past / 86400 / 365.25)} years ago`;
}

const when = (seconds) => el("time", { text: age(seconds), title: date(seconds), datetime: new Date(seconds * 1000).toISOString(), class: "nowrap" });
const dot = (name) => el("span", { class: "dot", "aria-hidden": "true", style: { "--name": name.colour } });
const tagMark = (tag, old) => bdi(tag, { class: old ? "tag old" : "tag" });
const refButton = (version, text) => el("button", { type: "button", class: "link", "data-ref": version.ref, on: { click: () => openDetails(version) } }, [bdi(text || version.ref)]);

function header(section, title, lead, tools) {
  const host = byId(section);
  host.replaceChildren(
    el("div", { class: "head" }, [el("h2", { id: `${section}-h`, text: title }), el("div", { class: "tools" }, tools || [])]),
    ...(lead ? [el("p", { class: "lead", text: lead })] : []),
  );
  return host;
}

// A table that shows its first rows, and more on demand. `redraw(rows)` shows other rows.
function longTable(options, heads, rowOf, first) {
  const body = el("tbody");
  const more = el("button", { type: "button" });
  const foot = el("div", { class: "more" }, [more]);
  let rows = [];
  let shown = 0;
  function grow(count) {
    const next = rows.slice(shown, shown + count);
    body.append(...next.map(rowOf));
    shown += next.length;
    foot.hidden = shown >= rows.length;
    more.textContent = `Show ${plain(Math.min(first * 5, rows.length - shown))} more of ${plain(rows.length)}`;
  }
  more.addEventListener("click", () => {
    const from = body.children.length;
    grow(first * 5);
    const row = body.children[from];
    const target = row && row.querySelector("button");
    if (target) target.focus();
  });
  const table = el("table", options, [el("thead", null, [el("tr", null, heads)]), body]);
  return {
    element: el("div", null, [el("div", { class: "scroll" }, [table]), foot]),
    table,
    redraw(next) { rows = next; shown = 0; body.replaceChildren(); grow(first); },
  };
}
