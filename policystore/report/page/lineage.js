// The layout of the lineage: a lane for each name, and columns from left to right. A version stands
// to the right of its parents and of the version before it. Versions between which nothing happens
// are one item, a run.
function layOutLineage(shownNames, everything, opened) {
  const wanted = new Set(shownNames);
  const inside = (version) => wanted.has(version.name);
  const matters = (version) => {
    const list = version.name.versions;
    const parents = version.parents.filter((parent) => typeof parent === "number").map((parent) => versions[parent]);
    return everything || version === list[0] || version === list[list.length - 1] || version.tags.length > 0
      || parents.some((parent) => parent.name !== version.name)
      || version.children.some((child) => child.name !== version.name || before(child) !== version)
      || parents.some((parent) => parent.name === version.name && parent !== before(version));
  };
  const items = [];
  const itemOf = new Map();
  const lanes = shownNames.map((name) => {
    const lane = [];
    let run = [];
    const close = () => {
      const key = run.length ? run[0].ref : "";
      if (run.length > 2 && !opened.has(key)) lane.push({ versions: run, key });
      else run.forEach((version) => lane.push({ versions: [version], key: version.ref }));
      run = [];
    };
    for (const version of name.versions) {
      if (matters(version)) { close(); lane.push({ versions: [version], key: version.ref }); } else run.push(version);
    }
    close();
    for (const item of lane) {
      item.name = name;
      item.rank = item.versions[item.versions.length - 1].rank;
      item.first = item.versions[0].rank;
      item.versions.forEach((version) => itemOf.set(version, item));
      items.push(item);
    }
    return lane;
  });
  // Parents come before children in time, except where clocks differ: these are left out here.
  const edges = [];
  lanes.forEach((lane) => lane.forEach((item, at) => {
    item.before = lane[at - 1] || null;
    item.after = lane[at + 1] || null;
    if (item.before) {
      const first = item.versions[0];
      const declared = first.parents.some((parent) => parent === item.before.versions[item.before.versions.length - 1].index);
      edges.push({ from: item.before, to: item, kind: declared ? "straight" : "implied" });
    }
    for (const version of item.versions) {
      for (const parent of version.parents) {
        if (typeof parent !== "number") { item.unknown = true; continue; }
        const source = itemOf.get(versions[parent]);
        if (!inside(versions[parent])) { item.unknown = true; continue; }
        if (source !== item && source !== item.before) edges.push({ from: source, to: item, kind: source.name === item.name ? "back" : "across" });
      }
    }
  }));
  const incoming = new Map(items.map((item) => [item, []]));
  edges.forEach((edge) => incoming.get(edge.to).push(edge.from));
  const order = [...items].sort((a, b) => a.first - b.first || a.rank - b.rank);
  for (const item of order) {
    item.column = 0;
    for (const source of incoming.get(item)) if (source.column !== undefined && source.first < item.first) item.column = Math.max(item.column, source.column + 1);
    if (item.before && item.before.column !== undefined) item.column = Math.max(item.column, item.before.column + 1);
  }
  return { items, lanes, edges, itemOf, columns: items.reduce((most, item) => Math.max(most, item.column + 1), 0) };
}

// Names in the order of their first versions; a name that branches off another one stands below it.
function laneOrder(list) {
  const start = (name) => Math.min(...name.versions.map((version) => version.rank));
  const starts = new Map(list.map((name) => [name, start(name)]));
  const sorted = [...list].sort((a, b) => starts.get(a) - starts.get(b));
  const origin = (name) => {
    const parents = name.versions.flatMap((version) => version.parents).filter((parent) => typeof parent === "number");
    const found = parents.map((parent) => versions[parent].name).find((other) => other !== name && starts.has(other));
    return found && starts.get(found) < starts.get(name) ? found : null;
  };
  const below = new Map(sorted.map((name) => [name, []]));
  const roots = sorted.filter((name) => { const from = origin(name); if (from) below.get(from).push(name); return !from; });
  const ordered = [];
  const waiting = roots.reverse();
  while (waiting.length) {
    const name = waiting.pop();
    ordered.push(name);
    waiting.push(...below.get(name).reverse());
  }
  return ordered;
}

// Move what hangs together to the right, so that all newest versions stand at the right end.
function alignRight(layout) {
  const group = new Map(layout.lanes.map((lane, at) => [lane, at]));
  const laneOf = new Map(layout.lanes.flatMap((lane) => lane.map((item) => [item, lane])));
  for (const edge of layout.edges) {
    const [one, two] = [group.get(laneOf.get(edge.from)), group.get(laneOf.get(edge.to))];
    if (one !== two) for (const [lane, number] of group) if (number === two) group.set(lane, one);
  }
  for (const number of new Set(group.values())) {
    const items = layout.items.filter((item) => group.get(laneOf.get(item)) === number);
    const last = items.reduce((most, item) => Math.max(most, item.column), 0);
    items.forEach((item) => { item.column += layout.columns - 1 - last; });
  }
}

function before(version) {
  const list = version.name.versions;
  if (version.place === undefined) list.forEach((each, at) => { each.place = at; });
  return list[version.place - 1] || null;
}
