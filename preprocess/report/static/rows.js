/* How rows look: a line of the table, and a row in full. Every text is set as text. */
const rowViews = (table) => {
  const { about } = table;
  const { make, number } = ual;
  const pairs = about.kind === "pairs";
  const CUT = 1500;

  function stage(code) {
    const name = about.stages[code];
    return name ? make("span", { class: "stage", style: `--colour: var(--${name})` }, name) : "–";
  }

  /* A text with the searched words marked. */
  function marked(text, words) {
    if (!words.length) return [text];
    const lower = text.toLowerCase();
    if (lower.length !== text.length) return [text];
    const parts = [];
    let at = 0;
    while (at < text.length) {
      let next = -1;
      let length = 0;
      for (const word of words) {
        const found = lower.indexOf(word, at);
        if (found >= 0 && (next < 0 || found < next)) [next, length] = [found, word.length];
      }
      if (next < 0) break;
      parts.push(text.slice(at, next), make("mark", {}, text.slice(next, next + length)));
      at = next + length;
    }
    parts.push(text.slice(at));
    return parts;
  }

  /* The piece of a text that a searched word stands in, or its beginning. */
  function excerpt(text, words, length) {
    const flat = text.replace(/\s+/g, " ").trim();
    const lower = flat.toLowerCase();
    const places = words.map((word) => lower.indexOf(word)).filter((at) => at >= 0);
    const first = places.length ? Math.min(...places) : 0;
    const start = first > length * 0.7 ? first - Math.floor(length / 3) : 0;
    const cut = flat.slice(start, start + length);
    return `${start ? "… " : ""}${cut}${start + length < flat.length ? " …" : ""}`;
  }

  function question(record) {
    const before = record.t.filter((turn) => !turn[3]);
    const users = before.filter((turn) => turn[0] === "user" || turn[0] === "human");
    const turn = users.at(-1) || before.at(-1);
    return turn ? turn[1] : "";
  }

  function response(record) {
    if (record.c) return record.c[0];
    return record.t.filter((turn) => turn[3]).map((turn) => turn[1]).join(" ");
  }

  function snippet(record, words, length = 130) {
    const asked = question(record);
    return make(
      "span",
      { class: "snippet", dir: "auto" },
      ...marked(excerpt(asked, words, length), words),
      asked ? make("span", { class: "answer" }, " → ") : null,
      make("span", { class: "answer" }, ...marked(excerpt(response(record), words, length), words)),
    );
  }

  function said(text, leftOut, words) {
    const whole = make("div", { class: "said", dir: "auto" });
    const short = text.length > CUT * 1.3;
    whole.append(...marked(short ? text.slice(0, CUT) : text, words));
    const box = make("div", {}, whole);
    if (short) {
      const button = make("button", { type: "button", class: "link" }, `Show all ${number(text.length, 0)} characters`);
      button.addEventListener("click", () => {
        whole.replaceChildren(...marked(text, words));
        button.remove();
      });
      box.append(button);
    }
    if (leftOut) box.append(make("p", { class: "quiet small" }, `${number(leftOut, 0)} further characters are not in this file.`));
    return box;
  }

  function turn([role, text, leftOut, trained], words) {
    return make(
      "div",
      { class: trained ? "turn trained" : "turn" },
      make(
        "div",
        { class: "who" },
        make("strong", {}, role === null ? "text" : role),
        trained ? make("span", {}, "trained") : null,
        make("span", {}, `${number(text.length + leftOut, 0)} characters`),
      ),
      said(text, leftOut, words),
    );
  }

  function measures(entries) {
    const list = make("dl", { class: "measures" });
    for (const [name, content] of entries) {
      list.append(make("div", {}, make("dt", {}, name), make("dd", {}, content)));
    }
    return list;
  }

  function rowMeasures(row) {
    const entries = about.numbers.map((column) => [
      column.label,
      `${number(table.value(column.key, row), column.digits)}${column.unit ? ` ${column.unit}` : ""}`,
    ]);
    if (about.stages.length) entries.push(["stage", stage(table.value("stage", row))]);
    return measures(entries);
  }

  const COLOURS = ["--conservative", "--moderate", "--exploratory", "--accent", "--bad", "--quiet"];

  function cluster(of, all) {
    if (of === null || of === undefined) return null;
    const size = all.filter((other) => other[3] === of).length;
    const many = all.filter((other) => other[3] !== null).length;
    const style = `--colour: var(${COLOURS[of % COLOURS.length]})`;
    return make("span", { class: "cluster", style }, `cluster ${of}: ${size} of ${many}`);
  }

  function scores(response) {
    const there = about.scores.map((name, i) => [name, response[6 + i]]).filter(([, score]) => score !== null && score !== undefined);
    return there.length ? measures(there.map(([name, score]) => [name, number(score, 3)])) : null;
  }

  function side(name, [text, leftOut], sampled, all, words) {
    return make(
      "div",
      { class: `turn side ${name}` },
      make(
        "div",
        { class: "who" },
        make("strong", {}, name),
        sampled ? cluster(sampled[3], all) : null,
        make("span", {}, `${number(text.length + leftOut, 0)} characters`),
      ),
      sampled ? scores(sampled) : null,
      said(text, leftOut, words),
    );
  }

  function other(response, all, words) {
    const [id, used, status] = response;
    return make(
      "div",
      { class: "turn" },
      make(
        "div",
        { class: "who" },
        make("strong", {}, `response ${id}`),
        used ? make("span", {}, used) : null,
        status ? make("span", {}, status) : null,
        cluster(response[3], all),
      ),
      scores(response),
      said(response[4], response[5], words),
    );
  }

  function sides(record, words) {
    const all = record.s || [];
    const used = (name, text) =>
      all.find((response) => response[1] === name && response[4] === text) ||
      all.find((response) => response[1] === name);
    const box = make("div", {});
    box.append(
      make(
        "div",
        { class: "sides" },
        side("chosen", record.c, used("chosen", record.c[0]), all, words),
        side("rejected", record.r, used("rejected", record.r[0]), all, words),
      ),
    );
    if (all.length > 2) {
      const details = make("details", { class: "others" }, make("summary", {}, `All ${all.length} responses to this prompt`));
      details.addEventListener(
        "toggle",
        () => details.append(make("div", { class: "turns" }, ...all.map((r) => other(r, all, words)))),
        { once: true },
      );
      box.append(details);
    }
    return box;
  }

  async function full(row, words) {
    const record = await table.record(row);
    const address = table.address(row);
    const part = about.parts[table.value("source", row)];
    return make(
      "div",
      {},
      make(
        "div",
        { class: "where" },
        make("a", { href: `#row=${encodeURIComponent(address)}`, class: "address" }, "Address of this row"),
        make("span", { class: "quiet" }, `row ${number(table.value("number", row), 0)} of ${part.name}.parquet, from ${part.label}`),
      ),
      rowMeasures(row),
      make("div", { class: "turns" }, ...record.t.map((t) => turn(t, words))),
      pairs && record.c ? sides(record, words) : null,
    );
  }

  return { stage, snippet, full };
};
