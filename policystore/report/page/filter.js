// Which versions are shown. Every section that follows the filter registers a function with onFilter.
const filter = { query: "", names: new Set(), tagged: false, visible: versions, shown: new Set(versions) };
const listeners = [];
const onFilter = (call) => { listeners.push(call); };

const COMPARE = {
  ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, "=": (a, b) => a === b,
};

// Return a test for each word of a query: word, tag:word, author:word, name:word, metric>number.
function parseQuery(query) {
  return query.trim().split(/\s+/).filter(Boolean).map((word) => {
    const compared = /^(.+?)(>=|<=|>|<|=)(-?[\d.]+(?:e[-+]?\d+)?)$/i.exec(word);
    if (compared) {
      const [, key, sign, text] = compared;
      const wanted = Number(text);
      const keys = metricKeys.filter((each) => each === key);
      const used = keys.length ? keys : metricKeys.filter((each) => each.toLowerCase().includes(key.toLowerCase()));
      return (version) => used.some((each) => version.metrics.has(each) && COMPARE[sign](version.metrics.get(each), wanted));
    }
    const scoped = /^(tag|author|name):(.*)$/i.exec(word);
    const text = (scoped ? scoped[2] : word).toLowerCase();
    if (!scoped) return (version) => version.words.includes(text);
    if (scoped[1].toLowerCase() === "tag") return (version) => version.tags.some((tag) => tag.toLowerCase().includes(text));
    if (scoped[1].toLowerCase() === "author") return (version) => version.author.toLowerCase().includes(text);
    return (version) => version.name.name.toLowerCase().includes(text);
  });
}

function applyFilter() {
  const tests = parseQuery(filter.query);
  filter.visible = versions.filter((version) =>
    (filter.names.size === 0 || filter.names.has(version.name))
    && (!filter.tagged || version.tags.length > 0)
    && tests.every((test) => test(version)));
  filter.shown = new Set(filter.visible);
  byId("count").textContent = filter.visible.length === versions.length
    ? countOf(versions.length, "version")
    : `${plain(filter.visible.length)} of ${countOf(versions.length, "version")}`;
  for (const call of listeners) call();
}

function toggleName(name) {
  if (!filter.names.delete(name)) filter.names.add(name);
  applyFilter();
}

function startFilter() {
  const query = byId("query");
  const tagged = byId("only-tagged");
  let waiting = 0;
  query.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { filter.query = query.value; applyFilter(); }, 120);
  });
  tagged.addEventListener("change", () => { filter.tagged = tagged.checked; applyFilter(); });
  byId("clear").addEventListener("click", () => {
    query.value = "";
    tagged.checked = false;
    Object.assign(filter, { query: "", tagged: false });
    filter.names.clear();
    applyFilter();
    query.focus();
  });
  const chips = names.map((name) => el("button", { type: "button", class: "chip", "aria-pressed": "false", on: { click: () => toggleName(name) } }, [dot(name), bdi(name.name)]));
  byId("chips").replaceChildren(...chips);
  byId("chips").hidden = names.length < 2;
  arrowKeys(byId("chips"), ".chip", "ArrowLeft", "ArrowRight");
  onFilter(() => chips.forEach((chip, at) => chip.setAttribute("aria-pressed", String(filter.names.has(names[at])))));
}

// Let two arrow keys move between the elements of a list, of which one at a time is a tab stop.
function arrowKeys(host, selector, back, forward) {
  const items = () => [...host.querySelectorAll(selector)];
  const settle = () => items().forEach((item, at) => { item.tabIndex = at === 0 ? 0 : -1; });
  host.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const target = { [back]: at - 1, [forward]: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || target === undefined || !all[target]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[target].tabIndex = 0;
    all[target].focus();
  });
  settle();
  return settle;
}
