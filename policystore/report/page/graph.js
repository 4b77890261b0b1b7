// The lineage as a drawing that the pointer and the arrow keys walk through.
const graphView = { everything: false, opened: new Set(), lanes: false, focus: null };
const MOST_LANES = 16;
const LANE = 52;
const COLUMN = 46;
const TOP = 30;

function drawGraph() {
  const host = byId("lineage-graph");
  const wanted = filter.names.size ? names.filter((name) => filter.names.has(name)) : names;
  const filled = wanted.filter((name) => name.versions.length);
  const newest = (name) => Math.max(...name.versions.map((version) => version.rank));
  const recent = graphView.lanes ? filled : [...filled].sort((a, b) => newest(b) - newest(a)).slice(0, MOST_LANES);
  const shown = laneOrder(recent);
  const more = byId("lineage-more");
  more.hidden = filled.length <= MOST_LANES;
  more.firstChild.textContent = graphView.lanes ? `Show the ${MOST_LANES} newest names` : `Show all ${filled.length} names`;
  if (!shown.length) { host.replaceChildren(el("p", { class: "empty", text: "There are no versions." })); return; }
  const layout = layOutLineage(shown, graphView.everything, graphView.opened);
  const room = host.clientWidth - 240;
  if (68 + (layout.columns - 1) * COLUMN > room) alignRight(layout);
  const laneOf = new Map(shown.map((name, at) => [name, at]));
  const x = (item) => 34 + item.column * COLUMN;
  const y = (item) => TOP + laneOf.get(item.name) * LANE;
  const width = 68 + Math.max(0, layout.columns - 1) * COLUMN;
  const height = TOP + shown.length * LANE;

  const edges = layout.edges.map((edge) => {
    const colour = { style: { "--name": edge.from.name.colour } };
    const [x1, y1, x2, y2] = [x(edge.from), y(edge.from), x(edge.to), y(edge.to)];
    const bend = edge.kind === "back" ? `C${x1 + 20},${y1 - 26} ${x2 - 20},${y2 - 26} ${x2},${y2}` : edge.kind === "across" ? `C${x1 + COLUMN * 0.7},${y1} ${x2 - COLUMN * 0.7},${y2} ${x2},${y2}` : `L${x2},${y2}`;
    const path = svg("path", { class: `edge ${edge.kind}`, d: `M${x1},${y1} ${bend}`, ...colour });
    return Object.assign(edge, { path });
  });
  const nodes = layout.items.map((item) => {
    const version = item.versions[0];
    const run = item.versions.length > 1;
    const last = item.versions[item.versions.length - 1];
    const tags = run ? [] : version.tags;
    const dim = !item.versions.some((each) => filter.shown.has(each));
    const parents = run ? [] : version.parents.map((parent) => (typeof parent === "number" ? versions[parent].ref : `${parent} (not on this page)`));
    const label = run
      ? `${version.name.name}, versions ${version.number} to ${last.number}: ${item.versions.length} versions in a row; Enter shows them`
      : `${version.ref}${tags.length ? `, tags ${tags.join(", ")}` : ""}${parents.length ? `, from ${parents.join(", ")}` : ""}`;
    const shape = run
      ? svg("rect", { x: x(item) - 16, y: y(item) - 9, width: 32, height: 18, rx: 9 })
      : svg("circle", { cx: x(item), cy: y(item), r: tags.length ? 6.5 : 5 });
    const crowded = [item.before, item.after].some((each) => each && Math.abs(each.column - item.column) < 2 && each.versions.length === 1 && each.versions[0].tags.length);
    const room = crowded ? 7 : 15;
    const short = tags.length > 1 ? `${tags[0]} +${tags.length - 1}` : tags[0] || "";
    const group = svg("g", {
      class: `node${tags.length ? " tagged" : ""}${dim ? " dim" : ""}`, role: "button", tabindex: "-1", "aria-label": label,
      "data-key": item.key, style: { "--name": item.name.colour },
    }, [
      svg("rect", { class: "hit", x: x(item) - COLUMN / 2, y: y(item) - 20, width: COLUMN, height: 42 }),
      shape,
      run ? svg("text", { x: x(item), y: y(item) + 4, text: `${item.versions.length}` }) : svg("text", { x: x(item), y: y(item) + 20, text: `${version.number}` }),
      short ? svg("text", { class: "label", x: x(item), y: y(item) - 12, text: short.length > room ? `${short.slice(0, room - 1)}…` : short }) : null,
      item.unknown ? svg("path", { class: "edge implied", d: `M${x(item) - (run ? 32 : 20)},${y(item) - 16} L${x(item) - (run ? 15 : 5)},${y(item) - 4}` }) : null,
    ]);
    return Object.assign(item, { group, run, x: x(item), y: y(item) });
  });
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Lineage of ${countOf(shown.length, "name")}. Arrow keys walk along it, Enter opens a version.` }, [
    ...edges.map((edge) => edge.path), ...nodes.map((node) => node.group),
  ]);
  const scroll = el("div", { class: "scroll" }, [picture]);
  const labels = el("div", { class: "lanes" }, shown.map((name) => el("div", { style: { height: `${LANE}px`, "margin-top": laneOf.get(name) === 0 ? `${TOP - LANE / 2}px` : "0" } }, [dot(name), breakable(name)])));
  host.replaceChildren(el("div", { class: "graph" }, [labels, scroll]));
  scroll.scrollLeft = width;
  wireGraph(picture, scroll, layout, nodes, edges);
}

function wireGraph(picture, scroll, layout, nodes, edges) {
  const itemOf = new Map(nodes.map((node) => [node.group, node]));
  const find = (event) => itemOf.get(event.target.closest && event.target.closest(".node"));
  const open = (item) => {
    if (!item.run) { openDetails(item.versions[0]); return; }
    graphView.opened.add(item.key);
    graphView.focus = item.key;
    drawGraph();
  };
  const trace = (item) => {
    const lit = new Set([item]);
    for (const [start, end] of [["to", "from"], ["from", "to"]]) {
      const reached = new Set([item]);
      const waiting = [item];
      while (waiting.length) {
        const next = waiting.pop();
        for (const edge of edges) if (edge[start] === next && !reached.has(edge[end])) { reached.add(edge[end]); waiting.push(edge[end]); }
      }
      for (const edge of edges) edge[`lit-${start}`] = reached.has(edge[start]) && reached.has(edge[end]);
      reached.forEach((each) => lit.add(each));
    }
    picture.classList.add("tracing");
    nodes.forEach((node) => node.group.classList.toggle("lit", lit.has(node)));
    edges.forEach((edge) => edge.path.classList.toggle("lit", edge["lit-to"] || edge["lit-from"]));
  };
  const untrace = () => { picture.classList.remove("tracing"); hideTip(); };
  const tell = (item) => {
    const box = item.group.getBoundingClientRect();
    const version = item.versions[0];
    if (item.run) showTip(box.right, box.bottom, `${version.name.name}@${version.number} to @${item.versions[item.versions.length - 1].number}`, [["versions", plain(item.versions.length)]], ["Click to show them"]);
    else versionTip(box.right - 12, box.bottom - 12, version, [...playsRows(version), ...metricKeys.filter((key) => version.metrics.has(key)).slice(0, 3).map((key) => [key, value(version.metrics.get(key))])]);
  };
  picture.addEventListener("click", (event) => { const item = find(event); if (item) open(item); });
  picture.addEventListener("pointerover", (event) => { const item = find(event); if (item && event.pointerType !== "touch") { trace(item); tell(item); } });
  picture.addEventListener("pointerout", (event) => { if (find(event)) untrace(); });
  picture.addEventListener("focusin", (event) => { const item = find(event); if (item && item.group.matches(":focus-visible")) { trace(item); tell(item); } });
  picture.addEventListener("focusout", untrace);
  const go = (item) => {
    if (!item) return;
    nodes.forEach((node) => node.group.setAttribute("tabindex", node === item ? "0" : "-1"));
    item.group.focus({ preventScroll: true });
    const left = item.x - scroll.clientWidth / 2;
    scroll.scrollLeft = Math.max(0, left);
    item.group.scrollIntoView({ block: "nearest", inline: "nearest" });
    trace(item);
    tell(item);
  };
  const beside = (item, step) => {
    for (let lane = layout.lanes.findIndex((each) => each.includes(item)) + step; layout.lanes[lane]; lane += step) {
      if (layout.lanes[lane].length) return layout.lanes[lane].reduce((a, b) => (Math.abs(b.column - item.column) < Math.abs(a.column - item.column) ? b : a));
    }
    return null;
  };
  picture.addEventListener("keydown", (event) => {
    const item = find(event);
    if (!item) return;
    const lane = layout.lanes.find((each) => each.includes(item));
    const moves = {
      ArrowLeft: () => go(item.before), ArrowRight: () => go(item.after), ArrowUp: () => go(beside(item, -1)), ArrowDown: () => go(beside(item, 1)),
      Home: () => go(lane[0]), End: () => go(lane[lane.length - 1]), Enter: () => open(item), " ": () => open(item), Escape: untrace,
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  const newest = nodes.reduce((a, b) => (b.rank > a.rank ? b : a));
  const asked = graphView.focus && nodes.find((node) => node.key === graphView.focus);
  graphView.focus = null;
  if (asked) go(asked);
  else newest.group.setAttribute("tabindex", "0");
}

function startLineage() {
  const withParents = versions.filter((version) => version.parents.length);
  const host = header("lineage", "Lineage", "A lane for each name. A line leads from a parent to what was trained from it; a dotted line joins a version with the one before it where no parent was given. A pill stands for versions in a row; click it to see them.", [
    choice("Which versions", [["key", "branches and tags"], ["all", "every version"]], "key", (key) => { graphView.everything = key === "all"; drawGraph(); }),
  ]);
  host.append(el("div", { class: "card", id: "lineage-graph" }));
  host.append(el("div", { class: "more", id: "lineage-more" }, [el("button", { type: "button", on: { click: () => { graphView.lanes = !graphView.lanes; drawGraph(); } } })]));
  if (withParents.length) host.append(lazyDetails("As a table", () => {
    const table = longTable(null, ["Version", "Parents"].map((text) => el("th", { scope: "col", text })), (version) => el("tr", null, [
      el("th", { scope: "row" }, [refButton(version)]),
      el("td", null, version.parents.flatMap((parent, at) => [at ? ", " : "", typeof parent === "number" ? refButton(versions[parent]) : `${parent} (not on this page)`])),
    ]), 50);
    table.redraw(newestFirst.filter((version) => version.parents.length));
    return table.element;
  }));
  else host.append(el("p", { class: "lead", text: "No version names parents. push(…, parents=[…]) records them." }));
  let last = null;
  onFilter(() => {
    const key = [...filter.names].map((name) => name.index).sort().join();
    if (key !== last) { last = key; drawGraph(); return; }
    for (const group of byId("lineage-graph").querySelectorAll(".node")) {
      const version = byRef.get(group.dataset.key);
      if (version) group.classList.toggle("dim", !filter.shown.has(version));
    }
  });
}
