// The data of the page as objects. Everything below is in one function with these names.
const DATA = JSON.parse(document.getElementById("data").textContent);
const AUTHORS = DATA.authors;
const STRINGS = DATA.strings;
const COLOURS = 8;

// JSON has no NaN and no infinities: these numbers are texts.
const number = (value) => (value === null ? null : typeof value === "string" ? Number(value) : value);

const names = DATA.names.map((encoded, index) => ({
  index,
  name: encoded.name,
  short: encoded.short,
  newest: encoded.newest,
  standing: encoded.standing,
  deleted: encoded.deleted,
  colour: `var(--c${index % COLOURS})`,
  dash: [[], [6, 4], [2, 3]][Math.floor(index / COLOURS) % 3],
  versions: [],
  tags: encoded.tags.map(([tag, moves, count, protection]) => ({
    tag,
    count,
    read: moves.length,
    protection: STRINGS[protection],
    // A record that only protects the tag is a move to where the tag points already.
    moves: moves.filter(([target], at) => at === 0 || target !== moves[at - 1][0])
      .map(([target, time, author]) => ({ target, time, author: AUTHORS[author] })),
  })),
}));

const versions = [];
DATA.names.forEach((encoded, index) => {
  const name = names[index];
  encoded.number.forEach((versionNumber, at) => {
    const version = {
      index: versions.length,
      name,
      number: versionNumber,
      ref: `${name.name}@${versionNumber}`,
      time: encoded.time[at],
      author: AUTHORS[encoded.author[at]],
      digest: encoded.digest[at],
      message: STRINGS[encoded.message[at]],
      whole: encoded.whole[at],
      added: encoded.added[at],
      parents: encoded.parents[at],
      children: [],
      tags: [],
      plays: [],
      metrics: new Map(),
      texts: [],
      source: [],
      notes: [],
      noted: new Set(),
      nonfinite: [],
    };
    for (const [key, values] of encoded.metrics) {
      if (values[at] !== null) version.metrics.set(key, number(values[at]));
    }
    for (const [key, values] of encoded.texts) {
      if (values[at]) version.texts.push([key, STRINGS[values[at]]]);
    }
    for (const [key, values] of encoded.source) {
      if (values[at] !== null) version.source.push([key, String(values[at])]);
    }
    for (const [key, values] of encoded.source_texts) {
      if (values[at]) version.source.push([key, STRINGS[values[at]]]);
    }
    name.versions.push(version);
    versions.push(version);
  });
  for (const [at, places] of encoded.nonfinite) name.versions[at].nonfinite = places.map((place) => STRINGS[place]);
  for (const [at, time, author, text, numbers, texts] of encoded.notes) {
    const version = name.versions[at];
    const note = {
      version, time, author: AUTHORS[author], text: STRINGS[text],
      metrics: numbers.map(([key, amount]) => [STRINGS[key], number(amount)]),
      texts: texts.map(([key, words]) => [STRINGS[key], STRINGS[words]]),
    };
    version.notes.push(note);
    for (const [key, amount] of note.metrics) {
      version.metrics.set(key, amount); // the newest note counts
      version.noted.add(key);
    }
  }
  for (const tag of name.tags) {
    const last = tag.moves[tag.moves.length - 1];
    tag.target = last.target === null ? null : name.versions.find((each) => each.number === last.target) || null;
    if (tag.target) tag.target.tags.push(tag.tag);
  }
});

for (const version of versions) {
  for (const parent of version.parents) {
    if (typeof parent === "number") versions[parent].children.push(version);
  }
  version.words = [version.ref, version.message, version.author, version.tags.join(" "), version.notes.map((note) => note.text).join(" ")]
    .join("\n")
    .toLowerCase();
}

const byTime = [...versions].sort((a, b) => a.time - b.time || a.index - b.index);
byTime.forEach((version, at) => { version.rank = at; });
const newestFirst = [...byTime].reverse();
const byRef = new Map(versions.map((version) => [version.ref, version]));

// Metrics in the order of the report, the most telling first; then the others by how many versions have them.
const metricKeys = (() => {
  const counts = new Map();
  for (const version of versions) {
    for (const key of version.metrics.keys()) counts.set(key, (counts.get(key) || 0) + 1);
  }
  const place = new Map(DATA.metrics.map((key, at) => [key, at]));
  const placeOf = (key) => (place.has(key) ? place.get(key) : place.size);
  return [...counts.keys()].sort((a, b) => placeOf(a) - placeOf(b) || counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
})();
