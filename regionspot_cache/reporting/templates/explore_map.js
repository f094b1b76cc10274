// The map: a canvas with a point for every region.

const HIT_DISTANCE = 12; // pixels
const COLOURS = 8;

class RegionMap {
  constructor(canvas, regions, choose) {
    this.canvas = canvas;
    this.regions = regions;
    this.shown = new Set();
    this.selected = null;
    this.colour = "predicted";
    this.fit();
    this.listen(choose);
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // The whole map with a margin.
  fit() {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (const place of this.regions.place) {
      for (const axis of [0, 1]) {
        low[axis] = Math.min(low[axis], place[axis]);
        high[axis] = Math.max(high[axis], place[axis]);
      }
    }
    this.centre = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
    this.span = [Math.max(high[0] - low[0], 1e-6), Math.max(high[1] - low[1], 1e-6)];
    this.zoom = 1;
  }

  // Pixels of the canvas, counted in CSS pixels, of a region.
  at(row) {
    const { clientWidth: width, clientHeight: height } = this.canvas, place = this.regions.place[row];
    const scale = 0.92 * this.zoom;
    return [
      width / 2 + ((place[0] - this.centre[0]) / this.span[0]) * width * scale,
      height / 2 - ((place[1] - this.centre[1]) / this.span[1]) * height * scale,
    ];
  }

  nearest(x, y) {
    let best = null, least = HIT_DISTANCE ** 2;
    for (const row of this.shown) {
      const [px, py] = this.at(row), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  }

  move(dx, dy) {
    const { clientWidth: width, clientHeight: height } = this.canvas, scale = 0.92 * this.zoom;
    this.centre[0] -= (dx / (width * scale)) * this.span[0];
    this.centre[1] += (dy / (height * scale)) * this.span[1];
    this.draw();
  }

  magnify(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), 500);
    this.draw();
  }

  colourOf(row, palette) {
    const regions = this.regions;
    if (this.colour === "score" || this.colour === "novelty") {
      const value = this.colour === "score" ? regions.score(row) ?? 0 : regions.novelty[row] / this.mostNovel();
      return `hsl(${Math.round(220 - 200 * Math.min(Math.max(value, 0), 1))} 75% 50%)`;
    }
    const number = this.colour === "class" ? regions.class[row] : regions.top[row][0] ?? -1;
    return number < 0 ? palette.soft : palette.colours[number % COLOURS];
  }

  mostNovel() {
    this.greatest ??= this.regions.novelty.reduce((a, b) => Math.max(a, b), 1e-9);
    return this.greatest;
  }

  draw() {
    const canvas = this.canvas, ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const context = canvas.getContext("2d"), palette = paletteOf(canvas);
    context.scale(ratio, ratio);
    const size = this.regions.count > 20000 ? 2 : 5;
    context.fillStyle = palette.faint;
    for (let row = 0; row < this.regions.count; row++) if (!this.shown.has(row)) this.point(context, row, size);
    for (const row of this.shown) {
      context.fillStyle = this.colourOf(row, palette);
      this.point(context, row, size);
    }
    if (this.selected !== null) this.ring(context, palette);
  }

  point(context, row, size) {
    const [x, y] = this.at(row);
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }

  ring(context, palette) {
    const neighbours = this.regions.neighbours[this.selected];
    context.strokeStyle = palette.ink;
    context.lineWidth = 1;
    for (const row of neighbours) this.circle(context, row, 5);
    context.lineWidth = 3;
    this.circle(context, this.selected, 9);
  }

  circle(context, row, radius) {
    const [x, y] = this.at(row);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }

  listen(choose) {
    const canvas = this.canvas;
    let from = null, moved = false;
    canvas.addEventListener("pointerdown", (event) => {
      [from, moved] = [[event.offsetX, event.offsetY], false];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const dx = event.offsetX - from[0], dy = event.offsetY - from[1];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      moved = true;
      from = [event.offsetX, event.offsetY];
      this.move(dx, dy);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from && !moved) {
        const row = this.nearest(event.offsetX, event.offsetY);
        if (row !== null) choose(row);
      }
      from = null;
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.magnify(event.deltaY < 0 ? 1.2 : 1 / 1.2);
    }, { passive: false });
    const keys = {
      "+": () => this.magnify(1.3), "-": () => this.magnify(1 / 1.3),
      ArrowLeft: () => this.move(40, 0), ArrowRight: () => this.move(-40, 0),
      ArrowUp: () => this.move(0, 40), ArrowDown: () => this.move(0, -40),
    };
    canvas.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
  }
}

function paletteOf(element) {
  const style = getComputedStyle(element), colour = (name) => style.getPropertyValue(name).trim();
  return {
    ink: colour("--ink"), soft: colour("--soft"), faint: colour("--faint"), ground: colour("--ground"),
    colours: Array.from({ length: COLOURS }, (_, i) => colour(`--s${i}`)),
  };
}
