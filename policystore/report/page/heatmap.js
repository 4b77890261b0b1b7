// The heat map of a league: how often the player of a row has won against the player of a column.
// It is drawn on a canvas, as 200 players have 40,000 cells; the line below it says each cell in words.
const LARGEST_CELL = 30;
const LEAST_CELL = 4;
const MAP_ORDERS = [["rating", "by rating"], ["time", "by age"], ["name", "by name"]];

function heatCells(league) {
  const count = league.heat.length;
  const cells = { rate: new Float32Array(count * count).fill(NaN), low: new Float32Array(count * count), high: new Float32Array(count * count), episodes: new Float64Array(count * count) };
  const flat = league.pairs;
  for (let at = 0; at < flat.length; at += 6) {
    const [row, column, rate, low, high, episodes] = flat.slice(at, at + 6);
    const [one, two] = [row * count + column, column * count + row];
    cells.episodes[one] = cells.episodes[two] = episodes;
    if (rate === null) continue;
    [cells.rate[one], cells.low[one], cells.high[one]] = [rate / 1000, low / 1000, high / 1000];
    [cells.rate[two], cells.low[two], cells.high[two]] = [1 - rate / 1000, 1 - high / 1000, 1 - low / 1000];
  }
  return cells;
}

function heatOrder(league, order) {
  const places = league.heat.map((player, at) => at);
  const text = (at) => league.heat[at].label;
  const age = (at) => { const player = league.heat[at]; return [timeOf(player) === null ? Infinity : timeOf(player), player.number || 0]; };
  if (order === "name") places.sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }) || a - b);
  if (order === "time") places.sort((a, b) => { const [one, two] = [age(a), age(b)]; return (one[0] === two[0] ? 0 : one[0] - two[0]) || one[1] - two[1] || a - b; });
  return places;
}

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const mixed = (one, two, share) => one.map((part, at) => Math.round(part + (two[at] - part) * share));
const readable = ([red, green, blue]) => (red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#16202c" : "#ffffff");

function heatFigure(league) {
  const cells = heatCells(league);
  const count = league.heat.length;
  const view = { order: "rating", shows: "rate", places: heatOrder(league, "rating"), row: -1, column: -1, cell: 0, left: 0, top: 0 };
  const canvas = el("canvas", { "aria-hidden": "true" });
  const holder = el("div", {
    class: "heat scroll", tabindex: "0", role: "application", "aria-roledescription": "heat map",
    "aria-label": `Win rates of ${countOf(count, "player")} against each other. Arrow keys go from cell to cell, Enter opens the player of the row.`,
  }, [canvas]);
  const told = el("p", { class: "told", role: "status", text: "Point at a cell, or press the arrow keys." });
  const at = (row, column) => view.places[row] * count + view.places[column];
  const playerAt = (place) => league.heat[view.places[place]];
  const mostEpisodes = Math.max(1, cells.episodes.reduce((a, b) => Math.max(a, b), 0));

  function words(row, column) {
    const cell = at(row, column);
    if (row === column) return "the same player";
    if (!cells.episodes[cell]) return "never met";
    const played = countOf(cells.episodes[cell], "episode");
    if (Number.isNaN(cells.rate[cell])) return `${played} without a winner or loser`;
    return `wins ${percent(cells.rate[cell])} (${percent(cells.low[cell])} to ${percent(cells.high[cell])}), ${played}`;
  }

  function colourOf(row, column, tones) {
    const cell = at(row, column);
    if (row === column) return tones.same;
    if (!cells.episodes[cell]) return null;
    if (view.shows === "episodes") return mixed(tones.even, tones.win, 0.1 + 0.9 * (Math.log(1 + cells.episodes[cell]) / Math.log(1 + mostEpisodes)));
    const rate = cells.rate[cell];
    if (Number.isNaN(rate)) return null;
    return rate < 0.5 ? mixed(tones.even, tones.lose, 1 - 2 * rate) : mixed(tones.even, tones.win, 2 * rate - 1);
  }

  function draw() {
    const room = holder.clientWidth || 600;
    const context = canvas.getContext("2d");
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.font = font;
    const most = room < 500 ? 84 : 150;
    view.left = Math.ceil(Math.min(most, Math.max(...league.heat.map((player) => context.measureText(player.short).width)) + 10));
    view.top = view.left;
    view.cell = Math.max(LEAST_CELL, Math.min(LARGEST_CELL, Math.floor((room - view.left - 2) / count)));
    const [width, height] = [view.left + count * view.cell + 1, view.top + count * view.cell + 1];
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    Object.assign(canvas.dataset, { cell: view.cell, left: view.left });
    canvas.style.setProperty("width", `${width}px`);
    canvas.style.setProperty("height", `${height}px`);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const tones = Object.fromEntries(["lose", "even", "win"].map((name) => [name, channels(paint(`--${name}`))]));
    tones.same = channels(paint("--line"));
    const gap = view.cell > 7 ? 1 : 0;
    context.fillStyle = paint("--page");
    context.fillRect(view.left, view.top, count * view.cell, count * view.cell);
    for (let row = 0; row < count; row += 1) {
      for (let column = 0; column < count; column += 1) {
        const colour = colourOf(row, column, tones);
        if (!colour) continue;
        context.fillStyle = `rgb(${colour.join()})`;
        context.fillRect(view.left + column * view.cell, view.top + row * view.cell, view.cell - gap, view.cell - gap);
        if (view.cell >= 26 && row !== column) {
          context.fillStyle = readable(colour);
          context.font = font;
          context.textAlign = "center";
          context.textBaseline = "middle";
          const text = view.shows === "episodes" ? shortNumber(cells.episodes[at(row, column)]) : String(Math.round(cells.rate[at(row, column)] * 100));
          context.fillText(text, view.left + (column + 0.5) * view.cell, view.top + (row + 0.5) * view.cell + 0.5);
        }
      }
    }
    drawLabels(context, font);
    drawMark(context);
  }

  function drawLabels(context, font) {
    const step = Math.ceil(13 / view.cell);
    context.fillStyle = paint("--soft");
    context.font = font;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let row = 0; row < count; row += step) context.fillText(playerAt(row).short, view.left - 6, view.top + (row + 0.5) * view.cell, view.left - 8);
    context.textAlign = "left";
    for (let column = 0; column < count; column += step) {
      context.save();
      context.translate(view.left + (column + 0.5) * view.cell, view.top - 6);
      context.rotate(-Math.PI / 2);
      context.fillText(playerAt(column).short, 0, 0, view.top - 8);
      context.restore();
    }
  }

  function drawMark(context) {
    if (view.row < 0) return;
    context.strokeStyle = paint("--ink");
    context.lineWidth = 2;
    context.strokeRect(view.left + view.column * view.cell - 1, view.top + view.row * view.cell - 1, view.cell + 1, view.cell + 1);
  }

  function tell(row, column) {
    Object.assign(view, { row, column });
    draw();
    told.replaceChildren(playerMark(playerAt(row)), " against ", playerMark(playerAt(column)), `: ${words(row, column)}`);
  }

  function cellUnder(event) {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - view.left) / view.cell);
    const row = Math.floor((event.clientY - box.top - view.top) / view.cell);
    return row >= 0 && column >= 0 && row < count && column < count ? [row, column] : null;
  }

  canvas.addEventListener("pointermove", (event) => {
    const cell = cellUnder(event);
    if (!cell || event.pointerType === "touch") { hideTip(); return; }
    const rows = [[playerAt(cell[0]).label, "row"], [playerAt(cell[1]).label, "column"]];
    showTip(event.clientX, event.clientY, words(...cell), rows, []);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const cell = cellUnder(event); if (cell) tell(...cell); });
  holder.addEventListener("keydown", (event) => {
    const [row, column] = [Math.max(0, view.row), Math.max(0, view.column)];
    if (event.key === "Enter" && view.row >= 0) {
      event.preventDefault(); // else the same key would press the button that gets the focus
      const { version } = playerAt(row);
      if (version) openDetails(version);
      return;
    }
    const start = view.row < 0;
    const next = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [row, 0], End: [row, count - 1], PageUp: [row - 10, column], PageDown: [row + 10, column],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const [toRow, toColumn] = (start && event.key.startsWith("Arrow") ? [0, 0] : next).map((place) => Math.min(count - 1, Math.max(0, place)));
    tell(toRow, toColumn);
    const x = view.left + toColumn * view.cell;
    if (x < holder.scrollLeft + view.left || x + view.cell > holder.scrollLeft + holder.clientWidth) holder.scrollLeft = x - holder.clientWidth / 2;
  });

  const scale = el("span", { class: "scale", "aria-hidden": "true" });
  const key = el("p", { class: "legend" });
  const explain = () => {
    scale.classList.toggle("one", view.shows === "episodes");
    key.replaceChildren(...(view.shows === "episodes"
      ? [el("span", { text: "1 episode" }), scale, el("span", { text: countOf(mostEpisodes, "episode") })]
      : [el("span", { text: "the row loses" }), scale, el("span", { text: "the row wins" })]), el("span", { text: "empty: never met" }));
  };
  explain();
  const map = { holder, draw() { map.drawn = true; draw(); }, resize: draw, drawn: false };
  charts.add(map);
  holder.chart = map;
  seen.observe(holder);
  const left = league.player_count - count;
  return el("figure", { class: "card" }, [
    el("figcaption", { class: "head" }, [
      el("div", null, [el("h3", { text: "Payoffs" }), el("p", { class: "soft", text: `Share of the episodes that the player of the row has won against the player of the column; a draw counts half.${left > 0 ? ` The map shows ${plain(count)} of ${plain(league.player_count)} players: the ${plain(Math.floor(count / 2))} with the highest ratings, and the newest of the others.` : ""}` })]),
      el("div", { class: "tools" }, [
        choice("Colours", [["rate", "win rate"], ["episodes", "episodes"]], view.shows, (shows) => { view.shows = shows; explain(); draw(); }),
        choice("Order", MAP_ORDERS, view.order, (order) => { Object.assign(view, { order, places: heatOrder(league, order), row: -1, column: -1 }); draw(); }),
      ]),
    ]),
    key, holder, told,
    lazyDetails("As a table", () => payoffTable(league, cells)),
  ]);
}

function payoffTable(league, cells) {
  const count = league.heat.length;
  const rows = [];
  for (let row = 0; row < count; row += 1) for (let column = 0; column < count; column += 1) if (row !== column && cells.episodes[row * count + column]) rows.push([row, column, row * count + column]);
  const share = (amount) => (Number.isNaN(amount) ? "" : percent(amount));
  const table = longTable(null, ["Player", "Opponent", "Win rate", "Interval", "Episodes"].map((text, at) => el("th", { scope: "col", text, class: at > 1 ? "num" : null })), ([row, column, cell]) => el("tr", null, [
    el("th", { scope: "row" }, [playerMark(league.heat[row])]),
    el("td", null, [playerMark(league.heat[column])]),
    el("td", { class: "num", text: share(cells.rate[cell]) }),
    el("td", { class: "num", text: Number.isNaN(cells.rate[cell]) ? "" : `${share(cells.low[cell])} to ${share(cells.high[cell])}` }),
    el("td", { class: "num", text: plain(cells.episodes[cell]) }),
  ]), 50);
  table.redraw(rows);
  return table.element;
}
