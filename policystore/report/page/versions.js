// The table of versions, which follows the filter.
const COLUMNS_OF_METRICS = 3;
const sorting = { key: "time", up: false };

function startVersions() {
  const shownKeys = metricKeys.slice(0, COLUMNS_OF_METRICS);
  const read = {
    ref: (version) => version.ref, time: (version) => version.rank, author: (version) => version.author,
    whole: (version) => version.whole, message: (version) => version.message, tags: (version) => version.tags.join(" "),
  };
  const valueOf = (key) => read[key] || ((version) => version.metrics.get(key.slice(2)));
  const heads = () => [
    ["ref", "Version"], ["tags", "Tags"], ["time", "When"], ["author", "Author"],
    ...shownKeys.map((key) => [`m:${key}`, key]), ["whole", "Size"], ["message", "Message"],
  ];
  const pick = el("select", { id: "more-metrics", on: { change: () => {
    if (!pick.value) return;
    const key = pick.value.slice(2);
    const at = shownKeys.indexOf(key);
    if (at >= 0) shownKeys.splice(at, 1);
    shownKeys.unshift(key);
    shownKeys.length = Math.min(shownKeys.length, COLUMNS_OF_METRICS);
    sorting.key = `m:${key}`;
    sorting.up = false;
    build();
  } } }, [el("option", { value: "", text: "choose a metric" }), ...metricKeys.map((key) => el("option", { value: `m:${key}`, text: key }))]);
  const host = header("versions", "Versions", null, metricKeys.length ? [el("label", { class: "soft", for: "more-metrics", text: "Sort by metric" }), pick] : []);
  const place = el("div", { class: "card" });
  host.append(place);
  let table = null;

  function rowOf(version) {
    return el("tr", null, [
      el("th", { scope: "row" }, [el("span", { class: "name-cell" }, [dot(version.name), refButton(version)])]),
      el("td", { "data-label": "Tags" }, version.tags.map((tag) => tagMark(tag))),
      el("td", { "data-label": "When" }, [when(version.time)]),
      el("td", { "data-label": "Author", class: "author", title: version.author }, [bdi(version.author)]),
      ...shownKeys.map((key) => el("td", { class: "num", "data-label": key, text: value(version.metrics.get(key)), title: version.noted.has(key) ? "from an annotation" : null })),
      el("td", { class: "num soft", "data-label": "Size", text: version.whole ? bytes(version.whole) : "" }),
      el("td", { class: "message", "data-label": "Message", title: version.message || null }, [
        version.nonfinite.length ? el("span", { class: "odd", title: `NaN or infinite: ${version.nonfinite.join(", ")}`, "aria-label": "NaN or infinite numbers", role: "img" }) : null,
        version.notes.length ? el("span", { class: "noted", title: countOf(version.notes.length, "annotation"), "aria-label": countOf(version.notes.length, "annotation"), role: "img" }) : null,
        version.message ? bdi(version.message) : null,
      ]),
    ]);
  }

  function build() {
    const cells = heads().map(([key, title]) => el("th", {
      scope: "col", class: key.startsWith("m:") || key === "whole" ? "num" : null,
      "aria-sort": sorting.key === key ? (sorting.up ? "ascending" : "descending") : null,
    }, [el("button", { type: "button", "data-key": key, on: { click: () => {
      if (sorting.key === key) sorting.up = !sorting.up;
      else Object.assign(sorting, { key, up: key === "ref" || key === "author" });
      build();
      place.querySelector(`thead button[data-key="${CSS.escape(key)}"]`).focus();
    } } }, [bdi(title)])]));
    table = longTable({ class: "cards", id: "versions-table" }, cells, rowOf, innerWidth < 640 ? 15 : 60);
    arrowKeys(table.table.tBodies[0], "th button", "ArrowUp", "ArrowDown");
    place.replaceChildren(table.element, el("p", { class: "empty", text: "No version fits the filter.", hidden: true }));
    draw();
  }

  function draw() {
    const get = valueOf(sorting.key);
    const sign = sorting.up ? 1 : -1;
    const missing = (each) => each === undefined || each === "" || Number.isNaN(each);
    const rows = filter.visible.map((version) => [get(version), version]).sort(([a, left], [b, right]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b) || right.rank - left.rank;
      return (a < b ? -sign : a > b ? sign : 0) || right.rank - left.rank;
    }).map(([, version]) => version);
    table.redraw(rows);
    table.element.hidden = rows.length === 0;
    place.lastChild.hidden = rows.length > 0;
    const first = table.table.querySelectorAll("tbody th button");
    first.forEach((button, at) => { button.tabIndex = at === 0 ? 0 : -1; });
  }

  build();
  onFilter(draw);
}
