// Pairs of versions, layer by layer.
const STATUSES = ["equal", "changed", "only in the earlier", "only in the later", "another shape", "another dtype"];

const pairs = DATA.comparisons.map((encoded) => ({
  ...encoded, before: versions[encoded.before], after: versions[encoded.after],
  layers: encoded.layers.map(([name, status, relative, most, form]) => ({
    name: STRINGS[name], status, relative: number(relative), most: number(most), form: STRINGS[form],
  })),
}));

function pairTitle(pair) {
  const same = pair.before.name === pair.after.name;
  return `${pair.before.ref} → ${same ? `@${pair.after.number}` : pair.after.ref}`;
}

function pairSummary(pair) {
  const all = pair.equal + pair.changed;
  const parts = [];
  if (!all && !pair.layers.length) parts.push("the same policy");
  else parts.push(pair.changed ? `${plain(pair.changed)} of ${countOf(all, "layer")} changed` : `all ${countOf(all, "layer")} equal`);
  const largest = pair.layers.find((layer) => layer.relative !== null && Number.isFinite(layer.relative));
  if (largest) parts.push(`most: ${percent(largest.relative)}`);
  if (!pair.same_spec) parts.push("another spec");
  if (!pair.same_state) parts.push("other values in the state");
  return parts.join(" · ");
}

function pairReason(pair) {
  if (pair.reason === "newest") return "newest and the one before";
  if (pair.reason === "parent") return "parent under another name";
  return pair.reason.startsWith("tag ") ? `${pair.reason.slice(4)} and newest` : "neighbours";
}

// A bar shows the relative change on a scale of powers of ten, from a ten-thousandth to one.
function layersOf(pair) {
  const rows = pair.layers.map((layer) => {
    const share = layer.relative === null || Number.isNaN(layer.relative) ? 1 : Math.min(1, Math.max(0.01, (Math.log10(Math.max(layer.relative, 1e-9)) + 4) / 4));
    const text = layer.relative === null ? STATUSES[layer.status] : Number.isFinite(layer.relative) ? percentSmall(layer.relative) : Number.isNaN(layer.relative) ? "NaN" : "from all zeros";
    return el("div", { class: "layer" }, [
      el("span", { class: "text mono" }, [bdi(layer.name)]),
      el("span", { class: "track", title: `${layer.form}${layer.most === null ? "" : `, largest change ${value(layer.most)}`}` }, [el("i", { style: { width: `${share * 100}%`, "--name": layer.relative === null ? "var(--warn)" : pair.after.name.colour } })]),
      el("span", { class: "num", text }),
    ]);
  });
  const left = pair.changed - pair.layers.length;
  const rest = [left > 0 ? `${countOf(left, "layer")} that changed less` : "", pair.equal ? `${countOf(pair.equal, "layer")} equal, bit for bit` : ""].filter(Boolean);
  if (rest.length) rows.push(el("p", { class: "wide", text: `and ${rest.join(", ")}` }));
  if (!rows.length) rows.push(el("p", { class: "wide", text: "Both versions are the same policy, bit for bit." }));
  return el("div", { class: "layers" }, rows);
}

function percentSmall(share) {
  const size = share * 100;
  if (size === 0) return "0 %";
  return size < 0.001 ? `${size.toExponential(1)} %` : `${Number(size.toPrecision(2))} %`;
}

function pairElement(pair, open) {
  const details = el("details", { class: "pair" }, [el("summary", null, [
    el("strong", null, [bdi(pairTitle(pair))]), el("span", { class: "soft", text: pairSummary(pair) }), el("span", { class: "tag old", text: pairReason(pair) }),
  ])]);
  const fill = () => { if (details.children.length === 1) details.append(layersOf(pair)); };
  details.addEventListener("toggle", () => { if (details.open) fill(); });
  if (open) { fill(); details.open = true; }
  return details;
}

function startDifferences() {
  const host = header("differences", "Differences by layer", "How far the weights of a layer moved: the norm of the difference, divided by the norm of the earlier weights. Bars grow by powers of ten, from 0.01 % to 100 %.");
  if (!pairs.length) { host.append(el("p", { class: "card empty", text: "No pair of versions was compared." })); return; }
  const FIRST = 10;
  const card = el("div", { class: "card" });
  const empty = el("p", { class: "empty", text: "None of the compared pairs is among the names that are shown." });
  let all = false;
  const draw = () => {
    const shown = pairs.filter((pair) => !filter.names.size || filter.names.has(pair.before.name) || filter.names.has(pair.after.name));
    const part = all ? shown : shown.slice(0, FIRST);
    const more = el("div", { class: "more" }, [el("button", { type: "button", text: `Show all ${shown.length} pairs`, on: { click: () => { all = true; draw(); } } })]);
    more.hidden = part.length === shown.length;
    card.replaceChildren(...part.map((pair, at) => pairElement(pair, at === 0)), ...(shown.length ? [] : [empty]), more);
  };
  host.append(card);
  let last = null;
  onFilter(() => {
    const key = [...filter.names].map((name) => name.index).sort().join();
    if (key !== last) { last = key; draw(); }
  });
}
