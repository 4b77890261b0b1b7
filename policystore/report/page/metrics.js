// One chart for each metric, with a line for each name.
const MOST_LINES = 8;
const FIRST_CHARTS = 6;
const metricView = { axis: "number", all: false, current: [] };

function choice(label, options, current, choose) {
  const buttons = options.map(([key, text]) => el("button", { type: "button", text, "aria-pressed": String(key === current), on: {
    click: () => { buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(options[at][0] === key))); choose(key); },
  } }));
  return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function linesOf(key) {
  const rows = new Map();
  for (const version of filter.visible) {
    if (!version.metrics.has(key)) continue;
    if (!rows.has(version.name)) rows.set(version.name, []);
    rows.get(version.name).push(version);
  }
  const drawn = [...rows].sort((a, b) => b[1].length - a[1].length || a[0].index - b[0].index).slice(0, MOST_LINES)
    .sort((a, b) => a[0].index - b[0].index);
  const byNumber = metricView.axis === "number";
  const lines = drawn.map(([name, list]) => ({
    title: name.name, name, colour: name.colour, dash: name.dash,
    points: list.map((version) => ({ x: byNumber ? version.number : version.time, y: version.metrics.get(key), version }))
      .sort((a, b) => a.x - b.x)
      // Two versions of one second: the later one stands on the axis of time.
      .filter((point, at, all) => at === all.length - 1 || all[at + 1].x !== point.x),
  }));
  return { lines, left: rows.size - drawn.length };
}

function summaryOf(lines) {
  const points = lines.flatMap((line) => line.points).filter((point) => Number.isFinite(point.y));
  const odd = lines.flatMap((line) => line.points).length - points.length;
  if (!points.length) return odd ? `no finite values; ${plain(odd)} not finite` : "no values";
  const low = points.reduce((a, b) => (b.y < a.y ? b : a));
  const high = points.reduce((a, b) => (b.y > a.y ? b : a));
  const text = points.length === 1 ? `${value(low.y)} (${low.version.ref})`
    : `lowest ${value(low.y)} (${low.version.ref}), highest ${value(high.y)} (${high.version.ref})`;
  return odd ? `${text}; ${plain(odd)} not finite` : text;
}

function tableOf(key, lines) {
  const rows = lines.flatMap((line) => line.points).sort((a, b) => b.version.rank - a.version.rank);
  const table = longTable(null, [el("th", { scope: "col", text: "Version" }), el("th", { scope: "col", class: "num", text: key }), el("th", { scope: "col", text: "When" })],
    (point) => el("tr", null, [
      el("th", { scope: "row" }, [refButton(point.version)]),
      el("td", { class: "num", text: value(point.y) }),
      el("td", { class: "nowrap soft", text: date(point.version.time) }),
    ]), 50);
  table.redraw(rows);
  return table.element;
}

// A table that is made when it is opened.
function lazyDetails(summary, make) {
  const host = el("div", { class: "short" });
  const details = el("details", null, [el("summary", { text: summary }), host]);
  details.addEventListener("toggle", () => { if (details.open && !host.firstChild) host.append(make()); });
  return details;
}

const legendOf = (list) => el("p", { class: "legend" }, list.map((name) => el("span", null, [dot(name), bdi(name.short, { title: name.name })])));

function drawMetrics() {
  metricView.current.forEach((chart) => chart.remove());
  metricView.current = [];
  const grid = byId("metric-charts");
  const keys = metricKeys.filter((key) => filter.visible.some((version) => version.metrics.has(key)));
  const shown = metricView.all ? keys : keys.slice(0, FIRST_CHARTS);
  let left = 0;
  const all = [];
  const figures = shown.map((key) => {
    const { lines, left: more } = linesOf(key);
    all.push(lines);
    left = Math.max(left, more);
    const host = el("div");
    const summary = summaryOf(lines);
    const figure = el("figure", { class: "card" }, [
      el("figcaption", null, [el("h3", null, [bdi(key)]), el("p", { class: "soft" }, [bdi(summary)])]),
      host,
      lazyDetails("As a table", () => tableOf(key, lines)),
    ]);
    metricView.current.push(lineChart(host, {
      label: `${key} by ${metricView.axis === "number" ? "version number" : "time"}; ${summary}`, unit: key, time: metricView.axis === "time",
    }, lines));
    return figure;
  });
  grid.replaceChildren(...figures);
  const drawn = new Set(all.flatMap((lines) => lines.map((line) => line.name)));
  const common = drawn.size <= MOST_LINES;
  // With more names than one chart has lines, each chart has a legend of its own.
  if (!common) figures.forEach((figure, at) => figure.querySelector("figcaption").append(legendOf(all[at].map((line) => line.name))));
  byId("metric-legend").replaceChildren(
    ...(common ? legendOf([...drawn]).children : []),
    ...(left ? [el("span", { text: `${left} more ${left === 1 ? "name" : "names"} without a line: choose names above` })] : []),
  );
  const more = byId("metric-more");
  more.hidden = keys.length <= FIRST_CHARTS;
  more.firstChild.textContent = metricView.all ? `Show the first ${FIRST_CHARTS}` : `Show all ${keys.length} metrics`;
  byId("metric-none").hidden = keys.length > 0;
}

function startMetrics() {
  const host = header("metrics", "Metrics", "A ring marks a tagged version. Drag over a chart to look closer, double-click to go back, click a point to open its version.", [
    choice("Along the axis", [["number", "by version"], ["time", "by time"]], metricView.axis, (axis) => { metricView.axis = axis; drawMetrics(); }),
  ]);
  host.append(
    el("p", { class: "legend", id: "metric-legend", style: { "margin-bottom": "10px" } }),
    el("div", { class: "charts", id: "metric-charts" }),
    el("p", { class: "card empty", id: "metric-none", text: "None of the versions that are shown has metrics.", hidden: true }),
    el("div", { class: "more", id: "metric-more" }, [el("button", { type: "button", on: { click: () => { metricView.all = !metricView.all; drawMetrics(); } } })]),
  );
  onFilter(drawMetrics);
}
