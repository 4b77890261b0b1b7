// The players of a league: a chart of their ratings, and a table of who beat whom.
const MOST_CONSTANT = 3;

function ratingLines(league, byNumber) {
  const rows = new Map();
  for (const player of league.players) {
    if (player.rating === null || !player.name) continue;
    const x = byNumber ? player.number : timeOf(player);
    if (x === null) continue;
    if (!rows.has(player.name)) rows.set(player.name, []);
    rows.get(player.name).push({
      x, y: player.rating, low: player.rating - (player.error || 0), high: player.rating + (player.error || 0),
      version: player.version, title: player.label, note: player.version ? "" : "not on this page", text: ratingText(player),
    });
  }
  const drawn = [...rows].sort((a, b) => b[1].length - a[1].length || a[0].index - b[0].index).slice(0, MOST_LINES);
  const lines = drawn.map(([name, points]) => ({
    title: name.name, name, colour: name.colour, dash: name.dash,
    points: points.sort((a, b) => a.x - b.x).filter((point, at, all) => at === all.length - 1 || all[at + 1].x !== point.x),
  }));
  const xs = lines.flatMap((line) => line.points.map((point) => point.x));
  // Players without versions, such as heuristics, are level lines.
  const level = league.players.filter((player) => player.rating !== null && !player.name).slice(0, MOST_CONSTANT);
  if (xs.length) for (const player of level) {
    const ends = [...new Set([Math.min(...xs), Math.max(...xs)])];
    lines.push({
      title: player.label, name: { colour: "var(--c7)", short: player.short, name: player.label }, colour: "var(--c7)", dash: [8, 4],
      points: ends.map((x) => ({ x, y: player.rating, version: player.version, title: player.label, note: "", text: ratingText(player) })),
    });
  }
  return { lines, left: rows.size - drawn.length };
}

function ratingsFigure(league) {
  const host = el("div", { class: "tall" });
  const legend = el("p", { class: "legend" });
  let chart = null;
  const draw = (axis) => {
    if (chart) chart.remove();
    const { lines, left } = ratingLines(league, axis === "number");
    const best = league.players[0];
    chart = lineChart(host, {
      label: `Ratings by ${axis === "number" ? "version number" : "time"}; highest ${ratingText(best)} (${best.label})`, unit: "rating", time: axis === "time",
    }, lines);
    legend.replaceChildren(...legendOf(lines.map((line) => line.name)).children, ...(left > 0 ? [el("span", { text: `${countOf(left, "name")} more without a line` })] : []));
  };
  const timed = league.players.some((player) => player.name && timeOf(player) !== null);
  const figure = el("figure", { class: "card" }, [
    el("figcaption", { class: "head" }, [
      el("div", null, [el("h3", { text: "Ratings" }), el("p", { class: "soft", text: "On Elo's scale; bars are one standard error." })]),
      timed ? choice("Along the axis", [["number", "by version"], ["time", "by time"]], "number", draw) : null,
    ]),
    host, legend,
  ]);
  draw("number");
  return figure;
}

// A table whose heads sort it. Each column is [key, title, number?, value of a row, cell of a row].
function sortedTable(columns, rows, first, options) {
  const host = el("div");
  const sort = { key: options.key, up: options.up };
  const build = (focus) => {
    const heads = columns.map(([key, title, isNumber, read]) => el("th", {
      scope: "col", class: isNumber ? "num" : null, "aria-sort": read && sort.key === key ? (sort.up ? "ascending" : "descending") : null,
    }, read ? [el("button", { type: "button", "data-key": key, text: title, on: { click: () => {
      if (sort.key === key) sort.up = !sort.up;
      else Object.assign(sort, { key, up: !isNumber });
      build(key);
    } } })] : [title]));
    const table = longTable({ class: "cards", id: options.id }, heads, (row) => el("tr", null, columns.map(([, title, isNumber, read, cell], at) => {
      const content = cell(row);
      return el(at === options.heading ? "th" : "td", {
        scope: at === options.heading ? "row" : null, class: isNumber ? "num" : read ? null : "whole", "data-label": at === options.heading ? null : title,
      }, Array.isArray(content) ? content : content === "" ? [] : [content]);
    })), first);
    const read = columns.find(([key]) => key === sort.key)[3];
    const sign = sort.up ? 1 : -1;
    const missing = (each) => each === null || each === undefined || each === "";
    table.redraw(rows.map((row, at) => [read(row), row, at]).sort(([a, , i], [b, , j]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
      return (a < b ? -sign : a > b ? sign : 0) || i - j;
    }).map(([, row]) => row));
    host.replaceChildren(table.element);
    if (focus) host.querySelector(`thead button[data-key="${CSS.escape(focus)}"]`).focus();
  };
  build("");
  return host;
}

function playersCard(league) {
  const SHOWN = 2;
  const against = (list) => list.slice(0, SHOWN).map(({ player, share, episodes }) => el("div", { class: "against", title: countOf(episodes, "episode") }, [
    playerMark(player, player.short), el("span", { class: "soft", text: ` ${percent(share)}` }),
  ]));
  const columns = [
    ...(league.rated ? [["rank", "Rank", true, (player) => (player.rating === null ? null : player.rank), (player) => (player.rating === null ? "" : plain(player.rank))]] : []),
    ["label", "Player", false, (player) => player.label, (player) => [el("span", { class: "name-cell against" }, [player.name ? dot(player.name) : null, playerMark(player, player.short)])]],
    ...(league.rated ? [["rating", "Rating", true, (player) => player.rating, (player) => ratingText(player)]] : []),
    ...(league.decided ? [["share", "Win rate", true, (player) => player.share, (player) => percentText(player.share)]] : []),
    ...(!league.decided ? [["return", "Mean return", true, (player) => player.meanReturn, (player) => value(player.meanReturn)]] : []),
    ["episodes", "Episodes", true, (player) => player.episodes, (player) => plain(player.episodes)],
    ["opponents", "Opponents", true, (player) => player.opponents, (player) => plain(player.opponents)],
    ...(league.players.some((player) => timeOf(player) !== null) ? [["time", "When", false, timeOf, (player) => (timeOf(player) === null ? "" : [when(timeOf(player))])]] : []),
    ...(league.decided ? [["best", "Best against", false, null, (player) => against(player.best)], ["worst", "Worst against", false, null, (player) => against(player.worst)]] : []),
  ];
  const heading = columns.findIndex(([key]) => key === "label");
  const left = league.player_count - league.players.length;
  return el("div", null, [
    el("h3", { text: "Players" }),
    el("p", { class: "soft lead-small", text: `Best and worst opponents are those for whom the interval of the win rate says it most surely.${left > 0 ? ` ${plain(left)} more players are not on this page.` : ""}` }),
    el("div", { class: "card" }, [sortedTable(columns, league.players, innerWidth < 640 ? 10 : 20, { id: `${league.id}-players`, key: league.rated ? "rank" : "label", up: true, heading })]),
  ]);
}
