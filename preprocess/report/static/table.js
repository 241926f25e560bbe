/* The table of rows without its looks: which rows are in it, in what order. */
const rowTable = (about, arrays) => {
  const texts = new Array(about.rows);
  const label = new Map(about.numbers.map((column) => [column.key, column]));
  const state = { words: [], filters: [], sort: null, descending: false };

  function value(key, row) {
    return arrays[key][row];
  }

  /* Values are float32, so a range is compared in float32. */
  function tester(condition) {
    const column = arrays[condition.column];
    if (!column) return () => false;
    if ("is" in condition) return (row) => column[row] === condition.is;
    if (condition.missing) return (row) => Number.isNaN(column[row]);
    const low = Math.fround(condition.from);
    const high = Math.fround(condition.to);
    return condition.last
      ? (row) => column[row] >= low && column[row] <= high
      : (row) => column[row] >= low && column[row] < high;
  }

  function describe(filter) {
    return filter
      .map((condition) => {
        if (condition.column === "stage") return `stage ${about.stages[condition.is]}`;
        if (condition.column === "source") return `source ${about.parts[condition.is].label}`;
        const column = label.get(condition.column);
        const name = column ? column.label : condition.column;
        if (condition.missing) return `no ${name}`;
        const digits = column ? Math.min(column.digits, 4) : 3;
        const shown = (number) =>
          number.toLocaleString("en-US", { maximumFractionDigits: digits });
        if (condition.from === -Infinity) return `${name} up to ${shown(condition.to)}`;
        if (condition.to === Infinity) return `${name} from ${shown(condition.from)}`;
        if (condition.from === condition.to) return `${name} ${shown(condition.from)}`;
        return `${name} ${shown(condition.from)} to ${shown(condition.to)}`;
      })
      .join(", ");
  }

  /* Texts, once for each row, when they are first searched. */
  function textOf(record) {
    const parts = record.t.map((turn) => turn[1]);
    if (record.c) parts.push(record.c[0], record.r[0]);
    return parts.join("\n").toLowerCase();
  }

  async function readTexts() {
    const places = new Map();
    for (let row = 0; row < about.rows; row += 1) {
      if (texts[row] !== undefined) continue;
      const block = arrays.block[row];
      if (!places.has(block)) places.set(block, []);
      places.get(block).push(row);
    }
    for (const [block, rows] of places) {
      const records = await ual.block(block);
      for (const row of rows) texts[row] = textOf(records[arrays.place[row]]);
    }
  }

  function words(query) {
    const found = query.toLowerCase().match(/"[^"]+"|[^\s"]+/g) || [];
    return found.map((word) => word.replaceAll('"', ""));
  }

  async function select() {
    const tests = state.filters.flat().map(tester);
    if (state.words.length) await readTexts();
    const rows = [];
    for (let row = 0; row < about.rows; row += 1) {
      if (!tests.every((test) => test(row))) continue;
      if (state.words.length && !state.words.every((word) => texts[row].includes(word))) continue;
      rows.push(row);
    }
    return sorted(rows);
  }

  /* Rows without a value come last, whatever the order. */
  function sorted(rows) {
    const column = state.sort && arrays[state.sort];
    if (!column) return state.descending ? rows.reverse() : rows;
    const sign = state.descending ? -1 : 1;
    return rows.sort((a, b) => {
      const one = column[a];
      const other = column[b];
      if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other) || a - b;
      return sign * (one - other) || a - b;
    });
  }

  function address(row) {
    return `${about.parts[arrays.source[row]].name}:${arrays.number[row]}`;
  }

  function find(address) {
    const at = address.lastIndexOf(":");
    const source = about.parts.findIndex((part) => part.name === address.slice(0, at));
    const number = Number(address.slice(at + 1));
    for (let row = 0; row < about.rows; row += 1) {
      if (arrays.source[row] === source && arrays.number[row] === number) return row;
    }
    return -1;
  }

  function record(row) {
    return ual.record(arrays.block[row], arrays.place[row]);
  }

  return { about, state, value, describe, words, select, address, find, record };
};
