// A figure over the last minute, with its budget.

const WINDOW_S = 60;

export class Plot {
  constructor(canvas, colour) {
    Object.assign(this, { canvas, colour, points: [], budget: null });
  }

  add(t, value) {
    if (value !== null && value !== undefined) this.points.push([t, value]);
    while (this.points.length && this.points[0][0] < t - WINDOW_S) this.points.shift();
  }

  draw(now) {
    const scale = window.devicePixelRatio || 1, canvas = this.canvas;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const c = canvas.getContext("2d");
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, width, height);
    const values = this.points.map((point) => point[1]);
    const top = nice(1.15 * Math.max(this.budget || 0, ...values, 1));
    const x = (t) => width - ((now - t) / WINDOW_S) * width, y = (value) => height - 14 - (value / top) * (height - 22);
    c.font = "11px system-ui, sans-serif";
    for (const value of [0, top / 2, top]) {
      line(c, "#2e3742", 0, y(value), width, y(value));
      text(c, "#93a1b0", `${value}`, 2, y(value) + (value === top ? 10 : -2));
    }
    text(c, "#93a1b0", `${WINDOW_S} s ago`, 2, height - 2);
    text(c, "#93a1b0", "now", width - 24, height - 2);
    c.fillStyle = this.colour;
    for (const [t, value] of this.points) {
      c.globalAlpha = this.budget !== null && value > this.budget ? 1 : 0.75;
      if (this.budget !== null && value > this.budget) c.fillStyle = "#ff5a63";
      c.fillRect(x(t) - 1, y(value) - 1, 2.4, 2.4);
      c.fillStyle = this.colour;
    }
    c.globalAlpha = 1;
    if (this.budget !== null) {
      c.setLineDash([5, 4]);
      line(c, "#ffd60a", 0, y(this.budget), width, y(this.budget));
      c.setLineDash([]);
      text(c, "#ffd60a", `budget ${Math.round(this.budget)} ms`, width - 86, y(this.budget) - 3);
    }
  }
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 8, 10].find((step) => step * power >= value);
}

function line(c, colour, x0, y0, x1, y1) {
  c.strokeStyle = colour;
  c.beginPath();
  c.moveTo(x0, y0);
  c.lineTo(x1, y1);
  c.stroke();
}

function text(c, colour, words, x, y) {
  c.fillStyle = colour;
  c.fillText(words, x, y);
}
