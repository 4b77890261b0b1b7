// The tiles at the top, the problems, the names, and the tags.
function startTop() {
  byId("subtitle").textContent = DATA.title === DATA.url ? `As of ${date(DATA.time)}` : `${DATA.url} · as of ${date(DATA.time)}`;
  const newest = newestFirst[0];
  const tags = names.reduce((sum, name) => sum + name.tags.filter((tag) => tag.moves[tag.moves.length - 1].target !== null).length, 0);
  const standing = names.reduce((sum, name) => sum + name.standing, 0);
  const left = standing - versions.length;
  const alone = DATA.stored + DATA.saved;
  const tiles = [
    ["Names", plain(names.length), ""],
    ["Versions", plain(standing), left > 0 ? `${plain(versions.length)} on this page` : ""],
    ["Tags", plain(tags), ""],
    ["Stored", bytes(DATA.stored), "objects of these versions"],
    ["Saved by sharing", alone ? percent(DATA.saved / alone) : "–", DATA.saved ? bytes(DATA.saved) : ""],
    ["Newest", newest ? age(newest.time) : "–", newest ? newest.ref : ""],
  ];
  byId("tiles").replaceChildren(...tiles.map(([title, text, note]) => el("div", null, [
    el("dt", { text: title }), el("dd", { text }), note ? el("dd", { class: "note" }, [bdi(note)]) : null,
  ])));
  byId("made").textContent = `Made by policystore at ${date(DATA.time)}. Times are in UTC. This file makes no request.${DATA.shortened ? " Long texts, rare metrics and layers that hardly changed were left out, to keep the page small." : ""}`;
}

function startProblems() {
  if (!DATA.problem_count) return;
  const host = byId("problems");
  host.hidden = false;
  const left = DATA.problem_count - DATA.problems.length;
  host.replaceChildren(el("div", { class: "card pad problem", role: "note" }, [
    el("h2", { id: "problems-h", text: `${countOf(DATA.problem_count, "part")} of the store could not be read` }),
    el("p", { text: "Everything else is shown. store.verify() says more, and verify(repair_from=…) repairs." }),
    el("ul", null, DATA.problems.map(([place, text]) => el("li", null, [el("strong", null, [bdi(place)]), ": ", bdi(text)]))),
    left > 0 ? el("p", { text: `and ${plain(left)} more` }) : null,
  ]));
}

function spark(name, key) {
  const points = name.versions.filter((version) => Number.isFinite(version.metrics.get(key)));
  if (points.length < 2) return null;
  const values = points.map((version) => version.metrics.get(key));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const step = Math.max(1, Math.floor(points.length / 120));
  const kept = values.filter((each, at) => at % step === 0 || at === values.length - 1);
  const path = kept.map((each, at) => `${at ? "L" : "M"}${((at / (kept.length - 1)) * 120).toFixed(1)},${(24 - ((each - low) / (high - low || 1)) * 22).toFixed(1)}`).join("");
  return svg("svg", { class: "spark", viewBox: "0 0 120 26", preserveAspectRatio: "none", "aria-hidden": "true", style: { "--name": name.colour } }, [svg("path", { d: path })]);
}

function startNames() {
  const host = header("names", "Names", null);
  if (!names.length) { host.append(el("p", { class: "card empty", text: "The store has no names yet. store.push(snap, 'soccer/main') makes the first one." })); return; }
  // The most telling metric of each name; the head says which, if it is the same for all.
  const keyOf = new Map(names.map((name) => [name, metricKeys.find((key) => name.versions.some((version) => version.metrics.has(key)))]));
  const keys = new Set([...keyOf.values()].filter((key) => key !== undefined));
  const title = keys.size > 1 ? "Metric" : [...keys][0];
  const heads = ["Name", "Newest", "Versions", ...(title ? [title, ""] : []), "Tags", "Author"];
  const table = longTable({ class: "cards" }, heads.map((text) => el("th", { scope: "col", class: text === "Versions" ? "num" : null }, text ? [bdi(text)] : [el("span", { class: "hidden", text: "course" })])), (name) => {
    const newest = name.versions[name.versions.length - 1];
    const key = keyOf.get(name);
    const latest = key && newest ? newest.metrics.get(key) : undefined;
    const left = name.standing - name.versions.length;
    return el("tr", null, [
      el("th", { scope: "row" }, [el("span", { class: "name-cell" }, [dot(name), el("button", { type: "button", class: "link", "aria-label": `Show only ${name.name}`, on: { click: () => { filter.names.clear(); toggleName(name); } } }, [bdi(name.name)])])]),
      newest ? el("td", { "data-label": "Newest" }, [el("span", null, [refButton(newest, `@${newest.number}`), " ", el("span", { class: "soft" }, [when(newest.time)])])]) : el("td", { class: "soft", text: name.standing ? "cannot be read" : "all deleted" }),
      el("td", { class: "num", "data-label": "Versions", text: plain(name.standing), title: left ? `${left} not on this page` : null }),
      ...(title ? [el("td", { "data-label": title }, latest === undefined ? [] : keys.size > 1 ? [bdi(key, { class: "soft" }), ` ${value(latest)}`] : [value(latest)]), el("td", { class: "sparks" }, [key ? spark(name, key) : null])] : []),
      el("td", { "data-label": "Tags" }, name.tags.filter((tag) => tag.target).slice(0, 6).map((tag) => tagMark(tag.tag))),
      el("td", { class: "author", "data-label": "Author" }, newest ? [bdi(newest.author)] : []),
    ]);
  }, innerWidth < 640 ? 12 : 40);
  table.redraw(names);
  host.append(el("div", { class: "card" }, [table.element]));
  const deleted = names.filter((name) => name.deleted.length);
  if (deleted.length) {
    host.append(lazyDetails(`Deleted versions of ${countOf(deleted.length, "name")}`, () => {
      const list = longTable(null, ["Versions", "What", "When", "By", "Why"].map((text) => el("th", { scope: "col", text })), ([name, [first, last, action, time, author, message]]) => el("tr", null, [
        el("th", { scope: "row" }, [bdi(first === last ? `${name.name}@${first}` : `${name.name}@${first} to @${last}`)]),
        el("td", { text: { delete: "deleted", prune: "pruned", restore: "restored" }[action] || "deleted" }),
        el("td", null, time === undefined ? [] : [when(time)]),
        el("td", null, author === undefined ? [] : [bdi(AUTHORS[author])]),
        el("td", null, message ? [bdi(message)] : []),
      ]), 50);
      list.redraw(deleted.flatMap((name) => name.deleted.map((span) => [name, span])));
      return list.element;
    }));
  }
}

const noteValues = (note) => [...note.metrics.map(([key, amount]) => `${key} = ${value(amount)}`), ...note.texts.map(([key, text]) => `${key}: ${text}`)].join(", ");

function startNotes() {
  const notes = versions.flatMap((version) => version.notes).sort((a, b) => b.time - a.time || b.version.rank - a.version.rank);
  byId("notes").hidden = notes.length === 0;
  if (!notes.length) return;
  const host = header("notes", "Annotations", "Metrics and notes that were added to versions after their push. The charts and the table of versions show these metrics, too.");
  const table = longTable({ class: "cards" }, ["Version", "Note", "Metrics", "When", "By"].map((text) => el("th", { scope: "col", text })), (note) => el("tr", null, [
    el("th", { scope: "row" }, [el("span", { class: "name-cell" }, [dot(note.version.name), refButton(note.version)])]),
    el("td", { class: "said", "data-label": "" }, note.text ? [bdi(note.text)] : []),
    el("td", { class: "said", "data-label": "Metrics" }, noteValues(note) ? [bdi(noteValues(note))] : []),
    el("td", { "data-label": "When" }, [when(note.time)]),
    el("td", { class: "author", "data-label": "By" }, [bdi(note.author)]),
  ]), 20);
  const draw = () => table.redraw(notes.filter((note) => filter.shown.has(note.version)));
  host.append(el("div", { class: "card" }, [table.element]));
  onFilter(draw);
}

function startTags() {
  const host = header("tags", "Tags", "Where each tag points, and where it pointed before.");
  const rows = names.flatMap((name) => name.tags.map((tag) => ({ name, tag })));
  if (!rows.length) { host.append(el("p", { class: "card empty", text: "There are no tags. store.tag('soccer/main@7', 'champion') makes one." })); return; }
  const SHOWN = 8;
  const table = longTable({ class: "cards" }, ["Tag", "Name", "Moves", "Last move", "By"].map((text) => el("th", { scope: "col", text })), ({ name, tag }) => {
    const last = tag.moves[tag.moves.length - 1];
    const item = (move, at) => {
      const version = move.target === null ? null : name.versions.find((each) => each.number === move.target);
      const now = at === tag.moves.length - 1;
      return el("li", { class: now ? "now" : null, title: `${date(move.time)} by ${move.author}` }, [
        version ? refButton(version, `@${move.target}`) : el("span", { class: "soft", text: move.target === null ? "removed" : `@${move.target}` }),
      ]);
    };
    const items = tag.moves.map(item);
    const list = el("ol", { class: "moves", "aria-label": `Moves of ${tag.tag}, oldest first` });
    const earlier = items.slice(0, -SHOWN);
    const hidden = earlier.length + tag.count - tag.read;
    const more = el("li", null, [el("button", { type: "button", class: "link", text: `${plain(hidden)} earlier`, on: { click: () => { more.replaceWith(...earlier); } } })]);
    list.append(...(hidden ? [earlier.length ? more : el("li", { class: "soft", text: `${plain(hidden)} earlier` })] : []), ...items.slice(-SHOWN));
    return el("tr", null, [
      el("th", { scope: "row" }, [tagMark(tag.tag, last.target === null), tag.protection ? el("span", { class: "soft protected", text: "protected", title: tag.protection }) : null]),
      el("td", { "data-label": "Name" }, [el("span", { class: "name-cell" }, [dot(name), bdi(name.name)])]),
      el("td", { "data-label": "Moves" }, [list]),
      el("td", { "data-label": "Last move" }, [when(last.time)]),
      el("td", { class: "author", "data-label": "By" }, [bdi(last.author)]),
    ]);
  }, 30);
  table.redraw(rows);
  host.append(el("div", { class: "card" }, [table.element]));
}
