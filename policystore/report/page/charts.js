// Line charts by uPlot, with a tip, keys, and a table. A chart has lines; a line has points
// { x, y, version }, in ascending order of x. A point may have an error bar from `low` to `high`, a
// `text` to show for its y, and a `title` and a `note` if it is no version of the page.
const charts = new Set();

const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name.replace(/^var\(|\)$/g, "")).trim();

function lineChart(host, options, lines) {
  const holder = el("div", {
    class: "plot", tabindex: "0", role: "slider", "aria-label": options.label,
    "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0",
    "aria-valuetext": "Arrow keys move along the points, Enter opens the version",
  });
  host.replaceChildren(holder);
  const points = lines.flatMap((line) => line.points.map((point) => ({ ...point, line })))
    .filter((point) => Number.isFinite(point.y))
    .sort((a, b) => a.x - b.x);
  holder.setAttribute("aria-valuemax", String(Math.max(0, points.length - 1)));
  const xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
  const places = new Map(xs.map((x, at) => [x, at]));
  const at = lines.map((line) => {
    const versionsAt = new Array(xs.length);
    for (const point of line.points) versionsAt[places.get(point.x)] = point;
    return versionsAt;
  });
  // undefined: this line has no point at this x, and goes on. null: a value that is no number, a gap.
  const columns = at.map((line) => line.map((point) => (point === undefined ? undefined : Number.isFinite(point.y) ? point.y : null)));
  let plot = null;
  let near = null;

  function nearest() {
    const { left, top } = plot.cursor;
    if (left < 0) return null;
    let best = null;
    let least = Infinity;
    for (const point of points) {
      const distance = Math.hypot(plot.valToPos(point.x, "x") - left, (plot.valToPos(point.y, "y") - top) / 2);
      if (distance < least) { least = distance; best = point; }
    }
    return least < 60 ? best : null;
  }

  const textOf = (point) => point.text || (options.show || value)(point.y);
  const titleOf = (point) => (point.version ? point.version.ref : point.title || `${point.line.title}, ${date(point.x)}`);

  function tell(point) {
    near = point;
    holder.style.cursor = point && point.version ? "pointer" : "";
    if (!point) { hideTip(); return; }
    const box = plot.over.getBoundingClientRect();
    const x = box.left + plot.valToPos(point.x, "x");
    const y = box.top + plot.valToPos(point.y, "y");
    const row = [options.unit || point.line.title, textOf(point)];
    if (point.version) versionTip(x, y, point.version, [row]);
    else showTip(x, y, point.title || point.line.title, [row], [point.note === undefined ? date(point.x) : point.note]);
  }

  function build() {
    if (plot) plot.destroy();
    const width = Math.max(120, holder.clientWidth);
    const height = Math.max(100, holder.clientHeight);
    const ink = paint("--soft");
    const grid = { stroke: paint("--grid"), width: 1 };
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: ink, grid, ticks: { ...grid, size: 4 }, font };
    plot = new uPlot({
      width, height,
      padding: [10, 12, 0, 4],
      legend: { show: false },
      scales: { x: { time: Boolean(options.time) }, y: { range: (u, low, high) => spread(...withBars(u, points, low, high), options.zero) } },
      tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), "Etc/UTC"),
      cursor: { y: false, points: { size: 8 }, drag: { x: true, y: false, setScale: true } },
      axes: [
        { ...axis, size: options.time ? 42 : 30, space: options.time ? 80 : 60, ...(options.time ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000, 1000000] }) },
        { ...axis, size: 54, space: 34, values: (u, ticks) => ticks.map(options.tick || shortNumber) },
      ],
      series: [
        {},
        ...lines.map((line, index) => ({
          label: line.title,
          stroke: paint(line.colour),
          dash: line.dash,
          width: 1.75,
          fill: line.fill ? `color-mix(in srgb, ${paint(line.colour)} 14%, transparent)` : undefined,
          points: { show: columns[index].filter((y) => y !== undefined && y !== null).length <= 40, size: 5 },
          spanGaps: false,
        })),
      ],
      hooks: {
        setCursor: [() => { if (holder.matches(":hover")) tell(nearest()); }],
        draw: [(u) => { drawBars(u, points); drawTags(u, points); }],
      },
    }, [xs, ...columns], holder);
    plot.over.addEventListener("mouseleave", () => tell(null));
    let down = 0;
    plot.over.addEventListener("pointerdown", (event) => { down = event.clientX; });
    plot.over.addEventListener("click", (event) => {
      if (near && near.version && Math.abs(event.clientX - down) < 4) openDetails(near.version);
    });
  }

  let index = -1;
  holder.addEventListener("keydown", (event) => {
    if (!points.length) return;
    const jump = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -points.length, End: points.length }[event.key];
    if (event.key === "Enter" && points[index] && points[index].version) {
      event.preventDefault(); // else the same key would press the button that gets the focus
      openDetails(points[index].version);
      return;
    }
    if (event.key === "Escape") { hideTip(); return; }
    if (jump === undefined) return;
    event.preventDefault();
    index = Math.min(points.length - 1, Math.max(0, (index < 0 && jump < 0 ? points.length : index) + jump));
    const point = points[index];
    plot.setCursor({ left: plot.valToPos(point.x, "x"), top: plot.valToPos(point.y, "y") }, false);
    tell(point);
    holder.setAttribute("aria-valuenow", String(index));
    holder.setAttribute("aria-valuetext", `${titleOf(point)}: ${textOf(point)}`);
  });
  holder.addEventListener("blur", hideTip);

  const chart = {
    holder,
    draw: build,
    resize() {
      if (plot && holder.clientWidth > 0 && holder.clientWidth !== plot.width) plot.setSize({ width: holder.clientWidth, height: holder.clientHeight });
    },
    remove() { charts.delete(chart); seen.unobserve(holder); if (plot) plot.destroy(); plot = null; },
    get drawn() { return plot !== null; },
  };
  charts.add(chart);
  holder.chart = chart;
  seen.observe(holder);
  return chart;
}

// Charts are drawn when they come near the screen.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting && !entry.target.chart.drawn) entry.target.chart.draw();
}, { rootMargin: "300px" });

function redrawCharts() { for (const chart of charts) if (chart.drawn) chart.draw(); }

let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { for (const chart of charts) chart.resize(); }, 80);
});

function spread(low, high, zero) {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const bottom = zero ? Math.min(0, low) : low;
  const pad = (high - bottom) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [zero && bottom === 0 ? 0 : bottom - pad, high + pad];
}

// The lowest and highest value, with the error bars of the points that are in view.
function withBars(plot, points, low, high) {
  const { min, max } = plot.scales.x;
  const ends = points.filter((point) => point.low !== undefined && (min === null || min === undefined || (point.x >= min && point.x <= max)));
  return [ends.reduce((least, point) => Math.min(least, point.low), low), ends.reduce((most, point) => Math.max(most, point.high), high)];
}

function drawBars(plot, points) {
  const context = plot.ctx;
  const ratio = devicePixelRatio || 1;
  const { left, top, width, height } = plot.bbox;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.lineWidth = ratio;
  context.globalAlpha = 0.55;
  const colours = new Map(points.map((point) => [point.line, ""]));
  for (const line of colours.keys()) colours.set(line, paint(line.colour));
  for (const point of points) {
    if (point.low === undefined) continue;
    const x = plot.valToPos(point.x, "x", true);
    const [from, to] = [plot.valToPos(point.low, "y", true), plot.valToPos(point.high, "y", true)];
    context.strokeStyle = colours.get(point.line);
    context.beginPath();
    context.moveTo(x, from);
    context.lineTo(x, to);
    for (const y of [from, to]) { context.moveTo(x - 2.5 * ratio, y); context.lineTo(x + 2.5 * ratio, y); }
    context.stroke();
  }
  context.restore();
}

function shortNumber(amount) {
  if (amount === null) return "";
  const size = Math.abs(amount);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return amount.toExponential(0);
  for (const [unit, word] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${Number((amount / (word === "k" ? 1e3 : unit)).toPrecision(4))}${word}`;
  }
  return String(Number(amount.toPrecision(6)));
}

function drawTags(plot, points) {
  const tagged = points.filter((point) => point.version && point.version.tags.length);
  const context = plot.ctx;
  const ratio = devicePixelRatio || 1;
  context.save();
  for (const point of tagged) {
    const x = plot.valToPos(point.x, "x", true);
    const y = plot.valToPos(point.y, "y", true);
    if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
    context.beginPath();
    context.arc(x, y, 4.5 * ratio, 0, 2 * Math.PI);
    context.fillStyle = paint("--card");
    context.strokeStyle = paint(point.line.colour);
    context.lineWidth = 2 * ratio;
    context.fill();
    context.stroke();
  }
  context.restore();
}
