"use strict";
// The regions, what a person says of them, and what is asked of a server where there is one. No element of
// the page is touched here.

function decodeBytes(text) {
  return Int8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

class Regions {
  constructor(data) {
    Object.assign(this, data);
    this.count = this.image.length;
    this.vectors = data.embeddings ? decodeBytes(data.embeddings.data) : null;
    this.texts = data.text ? decodeBytes(data.text.data) : null;
    this.rowsOfImage = new Map();
    this.image.forEach((image, row) => {
      if (!this.rowsOfImage.has(image)) this.rowsOfImage.set(image, []);
      this.rowsOfImage.get(image).push(row);
    });
    this.similarity = null; // of the last search, by row
  }

  className(row) { return this.class[row] < 0 ? null : this.names[this.class[row]]; }
  predicted(row) { return this.top[row].length ? this.names[this.top[row][0]] : null; }
  score(row) { return this.scores[row].length ? this.scores[row][0] : null; }
  margin(row) {
    const [first, second] = this.scores[row];
    return first === undefined ? null : first - (second || 0);
  }
  differs(row) {
    const name = this.className(row);
    return name !== null && this.predicted(row) !== null && name !== this.predicted(row);
  }
  // What is shown as the region's name: what was annotated, else what was predicted.
  name(row) { return this.className(row) ?? this.predicted(row) ?? "no name"; }

  // Rows that pass the filters, in the order asked for.
  chosen(filters, reviews) {
    const rows = [];
    for (let row = 0; row < this.count; row++) if (this.passes(row, filters, reviews)) rows.push(row);
    const key = this.orderKey(filters.order);
    return key ? rows.sort((a, b) => key(a) - key(b) || a - b) : rows;
  }

  passes(row, filters, reviews) {
    if (filters.name !== null && this.className(row) !== filters.name && this.predicted(row) !== filters.name) {
      return false;
    }
    const score = this.score(row);
    if (filters.score < 1 && (score === null || score > filters.score)) return false;
    if (filters.novelty > 0 && this.novelty[row] < filters.novelty) return false;
    if (this.similarity && filters.order === "similarity" && this.similarity[row] === -Infinity) return false;
    switch (filters.show) {
      case "disagree": return this.differs(row);
      case "agree": return this.className(row) !== null && !this.differs(row);
      case "open": return !reviews.has(row);
      case "done": return reviews.has(row);
      default: return true;
    }
  }

  orderKey(order) {
    switch (order) {
      // Where prediction and annotation differ, a sure prediction is the more doubtful annotation.
      case "doubt": return (row) => {
        const margin = this.margin(row);
        if (margin === null) return -this.novelty[row];
        return this.differs(row) ? -1 - margin : margin;
      };
      case "novelty": return (row) => -this.novelty[row];
      case "score": return (row) => -(this.score(row) ?? 0);
      case "similarity": return this.similarity ? (row) => -this.similarity[row] : null;
      default: return null;
    }
  }

  // Names that have all of the words.
  matching(words) {
    const parts = words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    this.names.forEach((name, i) => {
      const text = name.toLowerCase();
      if (parts.length && parts.every((part) => text.includes(part))) found.push(i);
    });
    return found;
  }

  // Similarity of all regions with names that have the words; the number of such names.
  searchNames(words) {
    const found = this.matching(words);
    const texts = this.texts ? found.map((i) => this.text.rows[i]).filter((i) => i >= 0) : [];
    if (!texts.length) {
      const named = new Set(found);
      this.similarity = Float32Array.from({ length: this.count }, (_, row) =>
        named.has(this.class[row]) || named.has(this.top[row][0]) ? 1 : -Infinity);
      return found.length;
    }
    const width = this.text.width, query = new Float32Array(width);
    for (const i of texts) for (let j = 0; j < width; j++) query[j] += this.texts[i * width + j];
    this.similarity = Float32Array.from({ length: this.count }, (_, row) => {
      let product = 0, square = 0;
      for (let j = 0; j < width; j++) {
        const value = this.vectors[row * width + j];
        product += value * query[j];
        square += value * value;
      }
      return product / Math.sqrt(square || 1);
    });
    return found.length;
  }
}

// What was said of each region: {action: accept | rename | reject, name}. Kept by a server, or by the browser.
class Reviews {
  constructor(key, server) {
    this.key = key;
    this.server = server;
    this.found = new Map();
  }

  get size() { return this.found.size; }
  has(row) { return this.found.has(row); }
  get(row) { return this.found.get(row); }

  async load() {
    let entries = [];
    if (this.server) {
      entries = Object.entries((await this.server.get("reviews")).reviews);
    } else {
      try { entries = JSON.parse(localStorage.getItem(this.key) || "[]"); } catch { /* storage is off */ }
    }
    this.found = new Map(entries.map(([row, review]) => [Number(row), review]));
  }

  // Says something of a region, or with null takes it back. Rejects when it could not be kept.
  async set(row, review) {
    if (this.server) await this.server.post("reviews", { row, review });
    if (review) this.found.set(row, review); else this.found.delete(row);
    if (!this.server) localStorage.setItem(this.key, JSON.stringify([...this.found]));
  }
}

class Server {
  constructor(token) { this.token = token; }

  url(path) { return `/${path}${path.includes("?") ? "&" : "?"}token=${encodeURIComponent(this.token)}`; }

  async get(path) { return this.read(await fetch(this.url(path))); }

  async post(path, value) {
    const headers = { "Content-Type": "application/json" };
    return this.read(await fetch(this.url(path), { method: "POST", headers, body: JSON.stringify(value) }));
  }

  async read(answer) {
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error || `status ${answer.status}`);
    return value;
  }
}

// The regions as a COCO file: names as they were reviewed; what was rejected stands apart.
function cocoOf(regions, reviews) {
  const categories = new Map();
  const category = (name) => {
    if (!categories.has(name)) categories.set(name, categories.size + 1);
    return categories.get(name);
  };
  const annotations = [], rejected = [];
  for (let row = 0; row < regions.count; row++) {
    const [x0, y0, x1, y1] = regions.box[row], review = reviews.get(row);
    const width = x1 - x0, height = y1 - y0;
    const entry = {
      id: regions.id[row], image_id: regions.images[regions.image[row]][0],
      category_id: category(review?.name ?? regions.name(row)),
      bbox: [x0, y0, width, height], area: width * height, iscrowd: 0,
    };
    if (regions.score(row) !== null) entry.score = regions.score(row);
    if (review) entry.review = review.action;
    (review?.action === "reject" ? rejected : annotations).push(entry);
  }
  return {
    images: regions.images.map(([id, file_name, width, height]) => ({ id, file_name, width, height })),
    annotations,
    categories: [...categories].map(([name, id]) => ({ id, name })),
    rejected_annotations: rejected,
  };
}
