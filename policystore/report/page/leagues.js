// The leagues: what was read of each as objects, and a section of the page for each.
const OPEN_LEAGUES = 3;

const leagues = DATA.leagues.map((encoded, index) => {
  const league = {
    ...encoded, index, id: `league-${index}`,
    unknown: encoded.unknown.map(([reason, episodes]) => ({ reason, episodes })),
    environments: encoded.environments.map(([env, digest, matches, episodes, players]) => ({ env, digest, matches, episodes, players })),
  };
  const own = [];
  // Names that the page has no versions of have colours, too.
  const nameOf = (text) => names.find((name) => name.name === text) || own.find((name) => name.name === text)
    || (own.push({ index: names.length + own.length, name: text, short: text, colour: `var(--c${(names.length + own.length) % COLOURS})`, dash: [] }), own[own.length - 1]);
  league.players = encoded.players.map(([label, short, id, version, name, place, rating, error, episodes, meanReturn, opponents, share, best, worst], at) => ({
    league, rank: at + 1, label: STRINGS[label], short: STRINGS[short], id,
    version: version === null ? null : versions[version], name: name ? nameOf(STRINGS[name]) : null, number: place,
    rating: number(rating), error: number(error), episodes, meanReturn: number(meanReturn), opponents,
    share: share === null ? null : share / 1000, best, worst,
  }));
  const opponentsOf = (list) => list.map(([at, share, episodes]) => ({ player: league.players[at], share: share / 1000, episodes }));
  for (const player of league.players) {
    player.best = opponentsOf(player.best);
    player.worst = opponentsOf(player.worst);
    if (player.version) player.version.plays.push(player);
  }
  league.rated = league.players.some((player) => player.rating !== null);
  league.decided = league.players.some((player) => player.share !== null);
  league.heat = encoded.heat.map((at) => league.players[at]);
  return league;
});

const playerMark = (player, text) => {
  const mark = player.version ? refButton(player.version, text || player.label) : el("span", null, [bdi(text || player.label)]);
  if (!player.version || text !== player.label) mark.title = [player.label, player.id].filter(Boolean).join(" · ");
  return mark;
};
const ratingText = (player) => (player.rating === null ? "" : `${plain(Math.round(player.rating))}${player.error === null ? "" : ` ± ${plain(Math.round(player.error))}`}`);
const percentText = (share) => (share === null ? "" : percent(share));
const timeOf = (player) => (player.version ? player.version.time : null);

function leagueTiles(league) {
  const tiles = [
    ["Players", plain(league.player_count), league.player_count > league.players.length ? `${plain(league.players.length)} on this page` : ""],
    ["Matches", plain(league.matches), countOf(league.writers, "writer")],
    ["Episodes", plain(league.episodes), league.unknown_episodes ? `${plain(league.unknown_episodes)} more not recorded` : ""],
    ["Pairs that met", league.coverage.pairs ? percent(1 - league.coverage.bands[0] / league.coverage.pairs) : "–", `of ${countOf(league.coverage.pairs, "pair")}`],
    ["Best", league.rated ? ratingText(league.players[0]) : "–", league.rated ? league.players[0].label : ""],
  ];
  return el("dl", { class: "tiles" }, tiles.map(([title, text, note]) => el("div", null, [
    el("dt", { text: title }), el("dd", { text }), note ? el("dd", { class: "note" }, [bdi(note)]) : null,
  ])));
}

function coverageCard(league) {
  const { pairs: all, bands, never } = league.coverage;
  const titles = ["never met", "1 to 9 episodes", "10 to 99 episodes", "100 to 999 episodes", "1,000 episodes and more"];
  const table = longTable({ class: "cards" }, ["Pairs by episodes", "", "Pairs", "Share"].map((text, at) => el("th", { scope: "col", class: at > 1 ? "num" : null }, text ? [text] : [el("span", { class: "hidden", text: "bar" })])), ([title, count]) => el("tr", null, [
    el("th", { scope: "row", text: title }),
    el("td", { "data-label": "" }, [el("div", { class: "stack", "aria-hidden": "true", style: { "--name": title === "never met" ? "var(--warn)" : "var(--c0)", width: "100%" } }, [el("i", { style: { width: `${(count / Math.max(1, all)) * 100}%` } })])]),
    el("td", { class: "num", "data-label": "Pairs", text: plain(count) }),
    el("td", { class: "num", "data-label": "Share", text: all ? percent(count / all) : "" }),
  ]), 10);
  table.redraw(bands.map((count, at) => [titles[at], count]));
  const left = bands[0] - never.length;
  return el("div", { class: "card" }, [
    table.element,
    never.length ? lazyDetails(`Pairs that never met, closest ratings first${left > 0 ? `: ${plain(never.length)} of ${plain(bands[0])}` : ""}`, () => {
      const list = longTable(null, ["Player", "Rating", "Player", "Rating"].map((text, at) => el("th", { scope: "col", text, class: at % 2 ? "num" : null })), ([one, two]) => el("tr", null, [one, two].flatMap((at) => [
        el("td", null, [playerMark(league.players[at])]), el("td", { class: "num", text: ratingText(league.players[at]) }),
      ])), 50);
      list.redraw(never);
      return list.element;
    }) : null,
  ]);
}

function environmentsCard(league) {
  const table = longTable({ class: "cards" }, ["Environment", "Episodes", "Matches", "Players"].map((text, at) => el("th", { scope: "col", text, class: at ? "num" : null })), (row) => el("tr", null, [
    el("th", { scope: "row" }, [row.env ? bdi(row.env, { title: row.digest || null }) : el("span", { class: "soft", text: "not known" })]),
    el("td", { class: "num", "data-label": "Episodes", text: plain(row.episodes) }),
    el("td", { class: "num", "data-label": "Matches", text: plain(row.matches) }),
    el("td", { class: "num", "data-label": "Players", text: plain(row.players) }),
  ]), 10);
  table.redraw(league.environments);
  const left = league.environment_count - league.environments.length;
  return el("div", { class: "card" }, [
    table.element,
    left > 0 ? el("p", { class: "empty", text: `and ${countOf(left, "environment")} more` }) : null,
    league.unknown.length ? lazyDetails(`${countOf(league.unknown_episodes, "episode")} played and not recorded, by reason`, () => pairsList(league.unknown.map(({ reason, episodes }) => [reason, plain(episodes)]))) : null,
  ]);
}

function fillLeague(league) {
  const parts = [leagueTiles(league)];
  if (!league.players.length) return [...parts, el("p", { class: "card empty", text: "No match is recorded yet." })];
  if (league.problem) parts.push(el("p", { class: "card empty" }, [bdi(`There are no ratings: ${league.problem}`)]));
  if (league.notes.length) parts.push(el("p", { class: "soft lead-small", text: league.notes.join(" ") }));
  if (league.rated) parts.push(ratingsFigure(league));
  parts.push(playersCard(league));
  if (league.decided) parts.push(heatFigure(league));
  parts.push(el("div", { class: "split" }, [coverageCard(league), environmentsCard(league)]));
  return parts;
}

function startLeagues() {
  for (const league of leagues) {
    byId("metrics").before(el("section", { id: league.id, class: "wrap league", "aria-labelledby": `${league.id}-h` }));
    const title = `League ${league.name}`;
    const left = league.player_count - league.rated_count;
    const lead = left > 0 ? `The numbers are about the ${plain(league.rated_count)} players with the most episodes, and their matches with each other; ${plain(left)} more players are left out.` : null;
    const host = header(league.id, title, lead);
    const body = el("div", { class: "stacked" });
    if (league.index < OPEN_LEAGUES) { host.append(body); body.append(...fillLeague(league)); continue; }
    const details = el("details", null, [el("summary", { text: `${countOf(league.player_count, "player")}, ${countOf(league.episodes, "episode")}` }), body]);
    details.addEventListener("toggle", () => { if (details.open && !body.firstChild) body.append(...fillLeague(league)); });
    host.append(details);
  }
}

// What the dialog of a version says of the leagues in which the version plays.
function playsPart(version) {
  if (!version.plays.length) return null;
  const against = (list) => withCommas(list.map(({ player, share }) => el("span", null, [playerMark(player), ` ${percent(share)}`])));
  return part("Leagues", ...version.plays.map((player) => pairsList([
    ["League", player.league.name],
    ...(player.rating === null ? [] : [["Rating", `${ratingText(player)}, number ${plain(player.rank)} of ${plain(player.league.player_count)}`]]),
    ["Episodes", `${plain(player.episodes)} against ${countOf(player.opponents, "opponent")}`],
    ...(player.share === null ? [] : [["Win rate", percent(player.share)]]),
    ...(player.meanReturn === null ? [] : [["Mean return", value(player.meanReturn)]]),
    ...(player.best.length ? [["Best against", against(player.best)], ["Worst against", against(player.worst)]] : []),
  ])));
}

const playsRows = (version) => version.plays.filter((player) => player.rating !== null).slice(0, 2)
  .map((player) => [leagues.length > 1 ? `rating in ${player.league.name}` : "rating", ratingText(player)]);
