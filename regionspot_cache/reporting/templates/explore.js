// The page: filters, list, the chosen region and its review. Names are set as text, never as HTML.

const PAGE = 48; // regions of one page of the list
const $ = (id) => document.getElementById(id);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

class ExplorePage {
  constructor(regions, reviews, server) {
    Object.assign(this, { regions, reviews, server, rows: [], first: 0, selected: null });
    this.map = new RegionMap($("map"), regions, (row) => this.select(row));
    this.describe();
    this.listen();
    this.apply();
    const asked = Number.parseInt(location.hash.slice(1), 10);
    if (asked >= 0 && asked < regions.count) this.select(asked);
  }

  describe() {
    const { regions } = this, facts = regions.facts;
    $("summary").textContent =
      `${regions.count} regions of ${regions.images.length} images; ${facts.method}; map ${facts.map}`;
    $("class").append(element("option", "any", { value: "" }));
    const byName = regions.names.map((name, i) => [name, i]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
    for (const [name, i] of byName) {
      $("class").append(element("option", name, { value: i }));
      $("names").append(element("option", null, { value: name }));
    }
    for (const [key, value] of Object.entries(facts)) {
      const text = value !== null && typeof value === "object" ? JSON.stringify(value) : value ?? "none";
      $("made-from").append(element("dt", key.replaceAll("_", " ")), element("dd", text));
    }
    $("novelty").max = (Math.ceil(this.map.mostNovel() * 1000) / 1000).toString();
    $("download").hidden = Boolean(this.server);
    this.countReviews();
  }

  listen() {
    for (const id of ["class", "show", "order", "score", "novelty"]) {
      $(id).addEventListener("input", () => this.apply());
    }
    $("colour").addEventListener("input", () => { this.map.colour = $("colour").value; this.map.draw(); });
    $("clear").addEventListener("click", () => this.clear());
    $("search-form").addEventListener("submit", (event) => { event.preventDefault(); this.search(); });
    $("zoom-in").addEventListener("click", () => this.map.magnify(1.5));
    $("zoom-out").addEventListener("click", () => this.map.magnify(1 / 1.5));
    $("zoom-reset").addEventListener("click", () => { this.map.fit(); this.map.draw(); });
    $("less").addEventListener("click", () => this.turn(-PAGE));
    $("more").addEventListener("click", () => this.turn(PAGE));
    $("next").addEventListener("click", () => this.step(1));
    $("previous").addEventListener("click", () => this.step(-1));
    $("accept").addEventListener("click", () => this.accept());
    $("take").addEventListener("click", () => this.take());
    $("reject").addEventListener("click", () => this.review({ action: "reject", name: null }));
    $("undo").addEventListener("click", () => this.review(null));
    $("rename-form").addEventListener("submit", (event) => { event.preventDefault(); this.rename(); });
    $("download").addEventListener("click", () => this.download());
    $("picture").addEventListener("click", (event) => this.pick(event));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (typing && event.key === "Escape") $("name").focus();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      j: () => this.step(1), k: () => this.step(-1), a: () => this.accept(), t: () => this.take(),
      x: () => this.review({ action: "reject", name: null }), u: () => this.review(null),
      r: () => $("rename").select(), "/": () => $("search").focus(),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  }

  // --- which regions are listed

  filters() {
    const chosen = $("class").value;
    return {
      name: chosen === "" ? null : this.regions.names[Number(chosen)],
      show: $("show").value, order: $("order").value,
      score: Number($("score").value), novelty: Number($("novelty").value),
    };
  }

  apply() {
    const filters = this.filters();
    $("score-value").textContent = filters.score.toFixed(2);
    $("novelty-value").textContent = filters.novelty.toFixed(3);
    this.rows = this.regions.chosen(filters, this.reviews);
    this.first = 0;
    this.map.shown = new Set(this.rows);
    this.map.canvas.setAttribute("aria-label", `Map of ${this.rows.length} of ${this.regions.count} regions`);
    this.map.draw();
    this.list();
  }

  clear() {
    for (const [id, value] of Object.entries({ search: "", class: "", show: "all", order: "doubt", score: 1 })) {
      $(id).value = value;
    }
    $("novelty").value = 0;
    this.regions.similarity = null;
    this.apply();
  }

  async search() {
    const words = $("search").value.trim();
    if (!words) { this.clear(); return; }
    let said;
    if (this.server && this.regions.searchable) {
      const found = await this.attempt(() => this.server.get(`search?q=${encodeURIComponent(words)}`));
      if (!found) return;
      this.regions.similarity = new Float32Array(this.regions.count).fill(-Infinity);
      found.rows.forEach((row, i) => { this.regions.similarity[row] = found.similarity[i]; });
      said = `The ${found.rows.length} regions nearest to these words.`;
    } else {
      const names = this.regions.searchNames(words);
      if (!names) { this.say(`No name has the words ${words}.`); return; }
      said = `Regions nearest to ${names} names with these words.`;
    }
    $("order").value = "similarity";
    this.apply();
    this.say(said);
  }

  list() {
    const shown = this.rows.slice(this.first, this.first + PAGE);
    const last = this.first + shown.length;
    $("count").textContent = shown.length
      ? `${this.first + 1} to ${last} of ${this.rows.length} regions` : "No region passes the filters.";
    $("list").replaceChildren(...shown.map((row) => this.card(row)));
    $("less").disabled = this.first === 0;
    $("more").disabled = last >= this.rows.length;
  }

  turn(by) {
    this.first = Math.min(Math.max(this.first + by, 0), Math.max(this.rows.length - 1, 0));
    this.list();
    $("list").focus();
  }

  // A region as a button: picture, names, score.
  card(row, more = "") {
    const { regions } = this, item = element("li"), button = element("button", null, { type: "button" });
    const source = this.thumbnail(row);
    if (source) button.append(element("img", null, { src: source, alt: "", loading: "lazy" }));
    const review = this.reviews.get(row), score = regions.score(row);
    const name = review?.name ?? regions.name(row);
    button.append(element("span", review ? `${this.mark(review)} ${name}` : name));
    if (regions.differs(row)) button.append(element("span", `predicted ${regions.predicted(row)}`, { class: "was" }));
    const numbers = [score === null ? "" : `score ${score.toFixed(2)}`, more].filter(Boolean).join(", ");
    button.append(element("span", numbers || `region ${row + 1}`, { class: "was" }));
    button.dataset.row = row;
    if (row === this.selected) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.select(row));
    item.append(button);
    return item;
  }

  mark(review) { return { accept: "✓", rename: "✎", reject: "✗" }[review.action]; }

  thumbnail(row) {
    return this.server ? this.server.url(`thumbnail/${row}`) : this.regions.thumbnails[row];
  }

  // --- the chosen region

  select(row) {
    this.selected = row;
    history.replaceState(null, "", `#${row}`);
    this.map.selected = row;
    this.map.draw();
    $("chosen").hidden = false;
    this.show();
    for (const button of $("list").querySelectorAll("button")) {
      if (Number(button.dataset.row) === row) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.showPicture(row);
    this.showAttention(row);
    $("neighbours").replaceChildren(...this.regions.neighbours[row].map((other, i) =>
      this.card(other, `distance ${this.regions.distances[row][i].toFixed(2)}`)));
  }

  // Names and review of the chosen region.
  show() {
    const { regions, selected: row } = this, review = this.reviews.get(row);
    const name = review?.name ?? regions.name(row);
    $("name").textContent = `Region ${row + 1}: ${name}`;
    const [id, file, width, height] = regions.images[regions.image[row]];
    const top = regions.top[row].map((number, i) => `${regions.names[number]} ${regions.scores[row][i].toFixed(2)}`);
    const facts = {
      class: regions.className(row) ?? "none", predicted: top.join("; ") || "nothing",
      margin: regions.margin(row)?.toFixed(2) ?? "none", novelty: regions.novelty[row].toFixed(3),
      box: regions.box[row].map((value) => Math.round(value)).join(", "), "box id": regions.id[row],
      image: `${file} (id ${id}, ${width} x ${height})`,
      review: review ? review.action + (review.name ? `: ${review.name}` : "") : "not reviewed",
    };
    $("facts").replaceChildren(...Object.entries(facts).flatMap(([key, value]) =>
      [element("dt", key), element("dd", value)]));
    $("rename").value = name;
    $("take").disabled = regions.predicted(row) === null;
    $("undo").disabled = !review;
  }

  showPicture(row) {
    const { regions } = this, number = regions.image[row], canvas = $("picture");
    const source = this.server ? this.server.url(`image/${row}`) : regions.pictures[number];
    const [, file, width, height] = regions.images[number];
    canvas.setAttribute("aria-label",
      `${file} with ${regions.rowsOfImage.get(number).length} boxes; chosen: ${regions.name(row)}`);
    const image = new Image();
    canvas.hidden = !source;
    $("picture-note").textContent = source ? "" : "This page has no room for the whole picture.";
    image.addEventListener("load", () => { if (this.selected === row) this.paint(image, width, height); });
    image.addEventListener("error", () => {
      if (this.selected !== row) return;
      canvas.hidden = true;
      $("picture-note").textContent = `The picture ${file} cannot be shown.`;
    });
    if (source) image.src = source;
  }

  paint(image, width, height) {
    const canvas = $("picture"), { regions, selected: row } = this;
    const scale = Math.min(2, 900 / Math.max(width, height), 2);
    canvas.width = Math.max(Math.round(width * scale), 1);
    canvas.height = Math.max(Math.round(height * scale), 1);
    const context = canvas.getContext("2d"), palette = paletteOf(canvas);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const outline = (other, colour, line) => {
      const [x0, y0, x1, y1] = regions.box[other].map((value) => value * scale);
      for (const [style, thick] of [["#000", line + 2], [colour, line]]) {
        context.strokeStyle = style;
        context.lineWidth = thick;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
    };
    for (const other of regions.rowsOfImage.get(regions.image[row])) if (other !== row) outline(other, "#fff", 1);
    outline(row, palette.colours[1], 4);
    canvas.dataset.row = row;
  }

  // The smallest box of the picture under the pointer.
  pick(event) {
    const canvas = $("picture"), { regions } = this, [, , width] = regions.images[regions.image[this.selected]];
    const scale = width / canvas.clientWidth, x = event.offsetX * scale, y = event.offsetY * scale;
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    const under = regions.rowsOfImage.get(regions.image[this.selected])
      .filter((row) => {
        const [x0, y0, x1, y1] = regions.box[row];
        return x0 <= x && x <= x1 && y0 <= y && y <= y1;
      })
      .sort((a, b) => area(regions.box[a]) - area(regions.box[b]));
    if (under.length) this.select(under[0]);
  }

  async showAttention(row) {
    $("attention-block").hidden = true;
    let found = this.regions.attention?.[row];
    if (this.server && this.regions.attends) {
      found = await this.attempt(() => this.server.get(`attention/${row}`));
    }
    if (!found || this.selected !== row) return;
    $("attention").replaceChildren(...found.layers.map((layer, i) => {
      const figure = element("figure"), canvas = element("canvas", null, {
        role: "img", "aria-label": `Attention of layer ${i + 1} over ${found.rows} by ${found.columns} patches`,
      });
      this.paintAttention(canvas, found, layer, row);
      figure.append(canvas, element("figcaption", `Layer ${i + 1}: the brighter, the more attention`));
      return figure;
    }));
    $("attention-block").hidden = false;
  }

  paintAttention(canvas, found, layer, row) {
    const [, , width, height] = this.regions.images[this.regions.image[row]], scale = 320 / Math.max(width, height);
    canvas.width = Math.max(Math.round(width * scale), 1);
    canvas.height = Math.max(Math.round(height * scale), 1);
    const context = canvas.getContext("2d"), values = Uint8Array.from(atob(layer), (c) => c.charCodeAt(0));
    const [w, h] = [canvas.width / found.columns, canvas.height / found.rows];
    values.forEach((value, i) => {
      context.fillStyle = `rgb(${value} ${Math.round(value * 0.85)} ${Math.round(40 + value * 0.4)})`;
      context.fillRect((i % found.columns) * w, Math.floor(i / found.columns) * h, w + 1, h + 1);
    });
    const [x0, y0, x1, y1] = this.regions.box[row].map((value) => value * scale);
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  // --- review

  step(by) {
    if (!this.rows.length) return;
    const at = this.rows.indexOf(this.selected);
    const next = at < 0 ? 0 : Math.min(Math.max(at + by, 0), this.rows.length - 1);
    if (next < this.first || next >= this.first + PAGE) {
      this.first = Math.floor(next / PAGE) * PAGE;
      this.list();
    }
    this.select(this.rows[next]);
  }

  accept() {
    if (this.selected === null) return;
    const { regions, selected: row } = this;
    this.review({ action: "accept", name: regions.name(row) });
  }

  take() {
    const name = this.selected === null ? null : this.regions.predicted(this.selected);
    if (name !== null) this.review(this.naming(name));
  }

  rename() {
    const name = $("rename").value.trim();
    if (!name) { this.say("A name is needed."); return; }
    this.review(this.naming(name));
    $("name").focus(); // the keys are those of the page again
  }

  naming(name) {
    return { action: name === this.regions.className(this.selected) ? "accept" : "rename", name };
  }

  async review(review) {
    const row = this.selected;
    if (row === null || (!review && !this.reviews.has(row))) return;
    this.say("Saving.");
    const kept = await this.attempt(async () => { await this.reviews.set(row, review); return true; });
    if (!kept) return;
    this.say(review ? `Region ${row + 1}: ${review.action}${review.name ? ` ${review.name}` : ""}. Saved.`
      : `Region ${row + 1}: taken back.`);
    this.countReviews();
    this.list();
    if (this.selected === row) this.show();
  }

  countReviews() {
    const kept = this.server ? `Saved in ${this.regions.save}.` : "Kept in this browser until you download it.";
    $("reviewed").textContent = `${this.reviews.size} of ${this.regions.count} regions reviewed. ${kept}`;
  }

  download() {
    const text = JSON.stringify(cocoOf(this.regions, this.reviews));
    const link = element("a", null, { download: "reviewed.json" });
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // --- messages

  say(text) { $("status").textContent = text; }

  async attempt(work) {
    try { return await work(); } catch (error) { this.say(`That did not work: ${error.message}`); return null; }
  }
}

async function start() {
  let data = JSON.parse($("data").textContent);
  const server = data.token ? new Server(data.token) : null;
  if (server) data = await server.get("regions");
  const regions = new Regions(data), reviews = new Reviews(`regions ${data.key}`, server);
  await reviews.load();
  window.page = new ExplorePage(regions, reviews, server);
}

start().catch((error) => { $("status").textContent = `The page cannot be shown: ${error.message}`; });
